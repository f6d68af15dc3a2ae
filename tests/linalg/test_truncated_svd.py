"""The truncated SVD and its proof, against a dense SVD in float64."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.linalg import TruncatedSVD, truncated_svd
from surgery.linalg.certificate import least_overlap, missed_bound, optimum_bound
from surgery.linalg.krylov import BlockLanczos, orthonormal_rows
from surgery.linalg.krylov_svd import krylov_svd
from surgery.linalg.triplets import rounding

SPECTRA = {
    "exponential": lambda i: 0.9**i,
    "steep": lambda i: 0.5**i,
    "power law": lambda i: (i + 2) ** -0.8,
    "slow": lambda i: (i + 8) ** -0.3,
    "flat": torch.ones_like,
    "low rank": lambda i: (i < 5).to(i.dtype),
    "repeated": lambda i: 2.0 ** -torch.div(i, 7, rounding_mode="floor"),
    "outliers on noise": lambda i: torch.where(i < 3, 10.0 - i, 1 - i / 1000),
}


@pytest.fixture
def krylov_from_257(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller matrices than in use take the Krylov path, so that dense oracles stay quick."""
    module = importlib.import_module("surgery.linalg.truncated_svd")
    monkeypatch.setattr(module, "QUICK_FULL_SVD", 256)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_spectrum(s: Tensor, n: int, d: int, seed: int, dtype: torch.dtype) -> Tensor:
    """A matrix of random singular vectors and these values."""
    k = min(n, d)
    u, v = (
        torch.linalg.qr(torch.randn(size, k, generator=generator(seed + side), dtype=s.dtype)).Q
        for side, size in enumerate((n, d))
    )
    return ((u * s[:k]) @ v.mT).to(dtype)


def spectrum(name: str, length: int) -> Tensor:
    return SPECTRA[name](torch.arange(length, dtype=torch.float64))


def true_shortfall(matrix: Tensor, s: Tensor) -> float:
    optimum = torch.linalg.svdvals(matrix.double())[: len(s)].square().sum()
    return float(1 - s.double().square().sum() / optimum)


def defect(columns: Tensor) -> float:
    columns = columns.double()
    identity = torch.eye(columns.shape[1], dtype=columns.dtype)
    return float(torch.linalg.matrix_norm(columns.mT @ columns - identity))


cases = {
    "name": st.sampled_from(sorted(SPECTRA)),
    "seed": st.integers(0, 10**6),
    "size": st.tuples(st.integers(60, 120), st.integers(48, 60)),
    "rank": st.integers(1, 12),
    "block": st.integers(2, 8),
    "dtype": st.sampled_from([torch.float32, torch.float64]),
}


@settings(max_examples=60, deadline=None)
@given(**cases, tolerance=st.sampled_from([1e-1, 1e-3, 1e-6]))
def test_the_proved_shortfall_is_never_less_than_the_true_one(
    name: str,
    seed: int,
    size: tuple[int, int],
    rank: int,
    block: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    matrix = with_spectrum(spectrum(name, 60), *size, seed, dtype)
    energy = float(matrix.double().square().sum())

    found = krylov_svd(matrix, rank, tolerance, generator(seed), energy, block=block)

    assert found.shortfall >= true_shortfall(matrix, found.s)
    assert defect(found.u) <= 1e-5 and defect(found.v) <= 1e-5
    # A V = U S holds whatever the basis is: what is left of A is orthogonal to V.
    image = matrix.double() @ found.v.double()
    difference = image - found.u.double() * found.s.double()
    noise = 8 * rounding(matrix) * float(torch.linalg.matrix_norm(image))
    assert float(torch.linalg.matrix_norm(difference)) <= noise


@settings(max_examples=40, deadline=None)
@given(**cases)
def test_what_the_basis_misses_and_the_optimum_are_bounded(
    name: str, seed: int, size: tuple[int, int], rank: int, block: int, dtype: torch.dtype
) -> None:
    matrix = with_spectrum(spectrum(name, 60), *size, seed, torch.float64)
    squared = matrix.mT @ matrix
    run = BlockLanczos(matrix, block, 3 * block, generator(seed))
    for _ in range(3):
        run.expand()
    basis = run.basis
    outside = torch.eye(size[1], dtype=torch.float64) - basis.mT @ basis
    missed = float(torch.linalg.eigvalsh(outside @ squared @ outside)[-1])
    noise = 1e-13 * float(torch.linalg.eigvalsh(squared)[-1])

    probe = BlockLanczos(matrix, block, 3 * block, generator(seed + 1), deflated=basis.clone())
    overlap = least_overlap(block, size[1] - run.size, 1e-6)
    for _ in range(3):
        probe.expand()
        assert missed_bound(probe, overlap) >= missed - noise

    rank = min(rank, run.size)
    optimum = float(torch.linalg.eigvalsh(squared)[-rank:].sum())
    bound = optimum_bound(run.projected, run.coupling[-1], missed, rank)
    assert bound >= optimum - rank * noise


@pytest.mark.parametrize(("block", "dimension"), [(2, 40), (8, 100), (32, 300)])
def test_gaussian_blocks_overlap_any_vector_as_often_as_promised(
    block: int, dimension: int
) -> None:
    draws = torch.randn(20_000, dimension, generator=generator(), dtype=torch.float64).square()
    # The overlap's law, simulated: the share of the first p of d independent squares.
    shares = draws[:, :block].sum(dim=1) / draws.sum(dim=1)
    for failure in (0.5, 0.1, 1e-2):
        assert float((shares < least_overlap(block, dimension, failure)).double().mean()) <= failure


@settings(max_examples=30, deadline=None)
@given(**cases)
def test_lanczos_blocks_keep_their_recurrence_and_their_inertia(
    name: str, seed: int, size: tuple[int, int], rank: int, block: int, dtype: torch.dtype
) -> None:
    matrix = with_spectrum(spectrum(name, 60), *size, seed, dtype)
    run = BlockLanczos(matrix, block, 4 * block, generator(seed), keep_images=True)
    for _ in range(4):
        run.expand()
    basis, squared = run.basis.double(), matrix.double().mT @ matrix.double()
    top = float(torch.linalg.eigvalsh(squared)[-1])
    noise = 16 * rounding(matrix) * top

    assert defect(basis.mT) <= 64 * torch.finfo(dtype).eps * len(basis)
    assert float((basis @ squared @ basis.mT - run.projected).abs().max()) <= noise
    torch.testing.assert_close(torch.cat(run.images, dim=1), matrix @ run.basis.mT)
    ritz = torch.linalg.eigvalsh(run.projected)
    for level in (0.9 * top, 0.31 * top, 0.013 * top):
        clear = (ritz - level).abs().min() > noise
        assert not clear or run.ritz_above(level) == int((ritz > level).sum())


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dependent_and_zero_rows_are_completed(rows: int, dtype: torch.dtype) -> None:
    block = torch.randn(rows, 9, generator=generator(), dtype=dtype)
    block[rows // 2 :] = block[0]
    block[-1] = 0
    result = orthonormal_rows(block)
    assert defect(result.mT) <= 1e-12
    if rows > 1:
        assert float((result[0] @ block[0].double()) / block[0].double().norm()) > 1 - 1e-6


@pytest.mark.parametrize("name", sorted(SPECTRA))
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (12, 12)])
def test_full_is_the_dense_svd(name: str, shape: tuple[int, int]) -> None:
    matrix = with_spectrum(spectrum(name, 30), *shape, 1, torch.float64)
    found = truncated_svd(matrix, 8, method="full")
    oracle = torch.linalg.svdvals(matrix)[:8]
    assert found.method == "full"
    torch.testing.assert_close(found.s, oracle, rtol=1e-12, atol=1e-12 * float(oracle[0]))
    assert found.shortfall < 1e-12
    assert_is_decomposition(matrix, found)


def assert_is_decomposition(matrix: Tensor, found: TruncatedSVD) -> None:
    """Descending values, orthonormal vectors, fixed signs, and Eckart-Young's distance."""
    matrix = matrix.double()
    u, s, vt = found.u.double(), found.s.double(), found.vt.double()
    assert torch.all(s[:-1] >= s[1:]) and torch.all(s >= 0)
    assert found.defect == pytest.approx(max(defect(u), defect(vt.mT)), abs=1e-12)
    assert found.defect <= 1e-5
    assert torch.all(u.gather(0, u.abs().argmax(dim=0, keepdim=True)) > 0)
    energy = float(matrix.square().sum())
    assert found.captured == pytest.approx(float(s.square().sum()) / energy, rel=1e-5)
    left = float((matrix - (u * s) @ vt).square().sum()) / energy
    assert left == pytest.approx(1 - found.captured, abs=1e-5)
    assert found.shortfall >= true_shortfall(matrix, s)


@pytest.mark.parametrize(("shape", "rank"), [((768, 512), 64), ((512, 768), 64), ((600, 600), 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decaying_spectra_are_certified_in_a_krylov_space(
    shape: tuple[int, int], rank: int, dtype: torch.dtype
) -> None:
    index = torch.arange(min(shape), dtype=torch.float64)
    matrix = with_spectrum((index + 4) ** -0.6, *shape, 0, dtype)
    before = matrix.clone()
    found = truncated_svd(matrix, rank, generator=generator())
    assert found.method == "krylov" and found.shortfall <= 1e-3
    assert_is_decomposition(matrix, found)
    assert found.u.dtype == found.s.dtype == found.vt.dtype == dtype
    assert torch.equal(matrix, before)


@pytest.mark.usefixtures("krylov_from_257")
def test_a_flat_spectrum_ends_in_the_full_svd_where_that_is_cheap_else_in_an_honest_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise = torch.randn(320, 300, generator=generator())
    found = truncated_svd(noise, 32, generator=generator(), tolerance=1e-4)
    assert found.method == "full" and found.shortfall <= 1e-4

    module = importlib.import_module("surgery.linalg.truncated_svd")
    monkeypatch.setattr(module, "AFFORDABLE_FULL_SVD", 0)
    found = truncated_svd(noise, 32, generator=generator(), tolerance=1e-4)
    assert found.method == "krylov" and 1e-4 < found.shortfall < 1
    assert_is_decomposition(noise, found)


def test_small_matrices_and_large_ranks_take_the_full_svd() -> None:
    for shape, rank in (((384, 400), 4), ((400, 400), 100)):
        matrix = torch.randn(shape, generator=generator())
        assert truncated_svd(matrix, rank).method == "full"


@pytest.mark.usefixtures("krylov_from_257")
@pytest.mark.parametrize("method", ["fast", "full"])
@pytest.mark.parametrize("true_rank", [0, 1, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranks_below_the_asked_one_are_completed_with_zeros(
    method: str, true_rank: int, dtype: torch.dtype
) -> None:
    left = torch.randn(400, true_rank, generator=generator(1), dtype=dtype)
    matrix = left @ torch.randn(true_rank, 300, generator=generator(2), dtype=dtype)
    found = truncated_svd(matrix, 30, method=method, generator=generator())
    assert torch.all(found.s[true_rank:] == 0) and torch.all(found.s[:true_rank] > 0)
    assert found.defect <= 1e-5 and found.captured == pytest.approx(1)
    assert found.shortfall <= 1e-4
    difference = (found.u * found.s) @ found.vt - matrix
    assert float(difference.norm()) <= 1e-5 * float(matrix.norm())


@pytest.mark.usefixtures("krylov_from_257")
def test_duplicate_columns_and_single_entries_are_ordinary_inputs() -> None:
    repeated = torch.randn(400, 10, generator=generator()).repeat(1, 30)
    single = torch.zeros(400, 300)
    single[3, 5] = -2
    for matrix, true_rank in ((repeated, 10), (single, 1)):
        found = truncated_svd(matrix, 16, generator=generator())
        assert found.method == "krylov" and int((found.s > 0).sum()) == true_rank
        assert_is_decomposition(matrix, found)


@pytest.mark.usefixtures("krylov_from_257")
@pytest.mark.parametrize("method", ["fast", "full"])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(method: str, scale: float) -> None:
    matrix = with_spectrum(spectrum("power law", 300), 310, 300, 0, torch.float64)
    plain = truncated_svd(matrix.float(), 8, method=method, generator=generator())
    scaled = truncated_svd((matrix * scale).float(), 8, method=method, generator=generator())
    torch.testing.assert_close(scaled.s / scale, plain.s, rtol=1e-4, atol=0)
    assert scaled.captured == pytest.approx(plain.captured, rel=1e-4)


@pytest.mark.usefixtures("krylov_from_257")
def test_the_same_generator_state_gives_the_same_result() -> None:
    matrix = with_spectrum(spectrum("power law", 300), 310, 300, 0, torch.float32)
    first, second, other, default, again = (
        truncated_svd(matrix, 8, generator=source)
        for source in (generator(3), generator(3), generator(4), None, None)
    )
    assert torch.equal(first.u, second.u) and torch.equal(first.vt, second.vt)
    assert torch.equal(first.s, second.s) and first.shortfall == second.shortfall
    assert not torch.equal(first.u, other.u)
    assert torch.equal(default.u, again.u)


@pytest.mark.usefixtures("krylov_from_257")
def test_memory_layout_does_not_matter() -> None:
    matrix = with_spectrum(spectrum("power law", 300), 310, 300, 0, torch.float64)
    plain = truncated_svd(matrix, 8, generator=generator())
    for view in (matrix.mT.contiguous().mT, matrix.repeat_interleave(2, dim=1)[:, ::2]):
        other = truncated_svd(view, 8, generator=generator())
        torch.testing.assert_close(other.s, plain.s)
        torch.testing.assert_close(other.u, plain.u, rtol=0, atol=1e-7)


@pytest.mark.usefixtures("krylov_from_257")
def test_gradients_and_autocast_are_left_outside() -> None:
    matrix = torch.randn(300, 310, generator=generator(), requires_grad=True)
    plain = truncated_svd(matrix, 8, tolerance=0.1, generator=generator())
    assert not plain.u.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        cast = truncated_svd(matrix, 8, tolerance=0.1, generator=generator())
    assert torch.equal(plain.u, cast.u)


@pytest.mark.parametrize(
    ("matrix", "rank", "options", "message"),
    [
        (torch.zeros(3, 4, 5), 1, {}, "2-D"),
        (torch.zeros(3, 4, dtype=torch.int64), 1, {}, "int64"),
        (torch.zeros(3, 4, dtype=torch.bfloat16), 1, {}, "bfloat16"),
        (torch.zeros(3, 4), 0, {}, "rank must be 1 to 3"),
        (torch.zeros(3, 4), 4, {}, "rank must be 1 to 3"),
        (torch.zeros(0, 4), 1, {}, "rank"),
        (torch.ones(3, 4), 1, {"method": "quick"}, "quick"),
        (torch.ones(3, 4), 1, {"tolerance": 0.0}, "tolerance"),
        (torch.full((3, 4), math.nan), 1, {}, "NaN"),
        (torch.full((3, 4), math.inf), 1, {}, "infinity"),
    ],
)
def test_mistakes_are_named(
    matrix: Tensor, rank: int, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        truncated_svd(matrix, rank, **options)
