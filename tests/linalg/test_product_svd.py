"""The product SVD against a dense SVD in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.linalg import core_svd, product_error, product_svd
from surgery.linalg.metrics import probed_product_errors
from surgery.linalg.product_svd import qr_root

EPS = torch.finfo(torch.float64).eps


def factors(seed: int, batch: int, d: int, m: int, n: int, decay: float) -> tuple[Tensor, Tensor]:
    """Random factors whose rows are mixed and scaled over ``10**-decay`` .. 1."""
    generator = torch.Generator().manual_seed(seed)

    def one(width: int) -> Tensor:
        scales = torch.logspace(0, -decay, d, dtype=torch.float64)
        mix = torch.randn(batch, d, d, generator=generator, dtype=torch.float64)
        rows = torch.randn(batch, d, width, generator=generator, dtype=torch.float64)
        return mix @ (scales[:, None] * rows)

    return one(m), one(n)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(8, 24), st.integers(8, 24))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), shape=shapes, decay=st.floats(0, 6))
def test_values_are_those_of_the_dense_svd_and_the_product_is_kept(
    seed: int, shape: tuple[int, int, int, int], decay: float
) -> None:
    left, right = factors(seed, *shape, decay)
    dense = left.mT @ right
    d = left.shape[1]

    values, to_left, to_right = product_svd(left, right)

    oracle = torch.linalg.svdvals(dense)[:, :d]
    # Rounding in the factors' Gram or QR perturbs values by at most eps |L| |N|, up to d².
    scale = torch.linalg.matrix_norm(left) * torch.linalg.matrix_norm(right)
    noise = 1e-8 * oracle[:, :1] + 64 * d * d * EPS * scale[:, None]
    assert torch.all((values - oracle).abs() <= noise)
    error = product_error(left, right, to_left @ left, to_right @ right)
    floor = scale / torch.linalg.matrix_norm(dense).clamp_min(1e-300)
    assert torch.all(error <= 64 * d * d * EPS * floor)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), shape=shapes, decay=st.floats(0, 6), kept=st.floats(0, 1))
def test_cutting_is_optimal(
    seed: int, shape: tuple[int, int, int, int], decay: float, kept: float
) -> None:
    """Eckart-Young: no rank-r product is closer than the first r components."""
    left, right = factors(seed, *shape, decay)
    d = left.shape[1]
    rank = max(1, round(kept * d))
    values, to_left, to_right = product_svd(left, right)

    cut_left, cut_right = (to_left @ left)[:, :rank], (to_right @ right)[:, :rank]

    error = torch.linalg.matrix_norm(left.mT @ right - cut_left.mT @ cut_right)
    oracle = torch.linalg.svdvals(left.mT @ right)[:, rank:].norm(dim=-1)
    scale = torch.linalg.matrix_norm(left) * torch.linalg.matrix_norm(right)
    assert torch.all(error <= oracle + 1e-7 * values[:, 0] + 64 * d * d * EPS * scale)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), shape=shapes, decay=st.floats(0, 2.5))
def test_new_vectors_are_orthogonal_and_balanced(
    seed: int, shape: tuple[int, int, int, int], decay: float
) -> None:
    left, right = factors(seed, *shape, decay)
    values, to_left, to_right = product_svd(left, right)
    for new in (to_left @ left, to_right @ right):
        norms = values.clamp_min(1e-300).sqrt()
        gram = (new @ new.mT) / norms[:, :, None] / norms[:, None, :]
        kept = values > 1e-5 * values[:, :1]
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype)
        defect = (gram - eye).abs() * kept[:, :, None] * kept[:, None, :]
        assert float(defect.max()) < 1e-6


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_rank_deficient_and_zero_heads_are_ordinary_inputs(rank: int) -> None:
    generator = torch.Generator().manual_seed(1)
    basis = torch.randn(2, 6, rank, generator=generator, dtype=torch.float64)
    left = basis @ torch.randn(2, rank, 20, generator=generator, dtype=torch.float64)
    right = torch.randn(2, 6, 16, generator=generator, dtype=torch.float64)

    values, to_left, to_right = product_svd(left, right)

    assert torch.all(values[:, rank:] == 0)
    assert torch.all(values[:, :rank] > 0)
    assert torch.all(torch.isfinite(to_left)) and torch.all(torch.isfinite(to_right))
    assert float(product_error(left, right, to_left @ left, to_right @ right).max()) < 1e-13


def test_repeated_singular_values_are_ordinary_inputs() -> None:
    eye = torch.eye(5, dtype=torch.float64).expand(2, 5, 5)
    values, to_left, to_right = product_svd(eye, eye)
    torch.testing.assert_close(values, torch.ones(2, 5, dtype=torch.float64))
    torch.testing.assert_close(to_left.mT @ to_right, eye.contiguous())


def test_factors_thinner_than_the_head_are_padded_with_empty_components() -> None:
    left, right = factors(0, 2, 8, 3, 24, 0.0)
    values, to_left, to_right = product_svd(left, right)
    assert values.shape == (2, 8) and torch.all(values[:, 3:] == 0)
    assert float(product_error(left, right, to_left @ left, to_right @ right).max()) < 1e-13


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), d=st.integers(1, 8), more=st.integers(0, 6))
def test_roots_of_second_moments_decompose_the_identity_between_their_samples(
    seed: int, d: int, more: int
) -> None:
    """Scores xᵀy of samples: what is kept loses as much as the dense SVD's tail."""
    x, y = factors(seed, 2, d, d + more, d + 2 * more, 1.0)
    values, left, right = core_svd(qr_root(x), qr_root(y))
    scores = x.mT @ y
    scale = torch.linalg.matrix_norm(x) * torch.linalg.matrix_norm(y)
    # The identity is off by as many roundings as the samples' condition numbers.
    condition = torch.linalg.cond(x) * torch.linalg.cond(y)
    noise = 64 * d * EPS * condition
    identity = torch.eye(d, dtype=torch.float64)
    assert torch.all(torch.linalg.matrix_norm(left.mT @ right - identity) <= noise)
    oracle = torch.linalg.svdvals(scores)[:, :d]
    for rank in range(d):
        cut = x.mT @ left[:, :rank].mT @ right[:, :rank] @ y
        lost = torch.linalg.matrix_norm(cut - scores)
        for tail in (values, oracle):
            assert torch.all((lost - tail[:, rank:].norm(dim=1)).abs() <= noise * scale)


@pytest.mark.parametrize("change", [0.0, 1e-12, 1e-3])
def test_product_error_resolves_differences_far_below_the_square_root_of_eps(
    change: float,
) -> None:
    left, right = factors(3, 2, 6, 30, 20, 1.0)
    direction = torch.zeros_like(left)
    direction[:, 0] = left[:, 0]
    dense = torch.linalg.matrix_norm(change * direction.mT @ right)
    expected = dense / torch.linalg.matrix_norm(left.mT @ right)

    error = product_error(left, right, left + change * direction, right)
    norm = torch.linalg.matrix_norm(left.mT @ right)
    changed = (left + change * direction, right)
    (probed,) = probed_product_errors(left, right, [changed], norm, probes=400)

    assert torch.all((error - expected).abs() <= 1e-3 * expected + 1e-14)
    # 400 probes: a relative spread of at most 1/sqrt(800) = 3.5 %, five sigma.
    assert torch.all((probed - expected).abs() <= 0.18 * expected + 1e-14)
