"""Orthonormal factors of products and of rows, whatever their rank."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.linalg import orthonormal_product, orthonormal_rows, orthonormality_defect

EPS = torch.finfo(torch.float64).eps


def factor(seed: int, batch: int, d: int, n: int, rank: int) -> Tensor:
    """Random rows of at most the given rank; the last of them exactly zero where it is short."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(batch, d, rank, generator=generator, dtype=torch.float64)
    rows = basis @ torch.randn(batch, rank, n, generator=generator, dtype=torch.float64)
    if rank < d:
        rows[:, -1] = 0
    return rows


def is_orthonormal(rows: Tensor, count: int) -> bool:
    """Whether the first ``count`` rows are orthonormal and the others zero."""
    eye = torch.zeros(rows.shape[-2], dtype=rows.dtype)
    eye[:count] = 1
    return float((rows @ rows.mT - torch.diag(eye)).abs().max()) <= 64 * rows.shape[-1] * EPS


shapes = st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 24), st.integers(1, 24))


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6), shape=shapes, ranks=st.tuples(st.integers(0, 8), st.integers(0, 8))
)
def test_a_product_is_kept_by_orthonormal_factors_and_the_dense_singular_values(
    seed: int, shape: tuple[int, int, int, int], ranks: tuple[int, int]
) -> None:
    batch, d, m, n = shape
    left, right = factor(seed, batch, d, m, ranks[0]), factor(seed + 1, batch, d, n, ranks[1])

    values, u, v = orthonormal_product(left, right)

    dense = left.mT @ right
    # Rounding moves the core by a few eps of its factors' norms.
    noise = 64 * d * EPS * torch.linalg.matrix_norm(left) * torch.linalg.matrix_norm(right)
    again = u.mT @ torch.diag_embed(values) @ v
    assert torch.all(torch.linalg.matrix_norm(again - dense) <= noise)
    count = min(d, m, n)
    assert is_orthonormal(u, count) and is_orthonormal(v, count)
    assert orthonormality_defect(u) <= 64 * max(m, 1) * EPS
    assert values.shape == (batch, d) and torch.all(values[:, 1:] <= values[:, :-1])
    oracle = torch.linalg.svdvals(dense)[:, :d]
    assert torch.all((values[:, : oracle.shape[1]] - oracle).abs() <= noise[:, None])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), shape=shapes, rank=st.integers(0, 8))
def test_rows_are_a_small_triangle_times_orthonormal_rows(
    seed: int, shape: tuple[int, int, int, int], rank: int
) -> None:
    batch, d, n, _ = shape
    rows = factor(seed, batch, d, n, rank)

    r, q = orthonormal_rows(rows)

    assert torch.equal(r, r.tril())
    assert is_orthonormal(q, min(d, n))
    noise = 64 * d * EPS * torch.linalg.matrix_norm(rows)
    assert torch.all(torch.linalg.matrix_norm(r @ q - rows) <= noise)


def test_the_defect_is_the_largest_entry_that_is_off() -> None:
    rows = torch.eye(3, 5, dtype=torch.float64)[None]
    rows[0, 1, 0] = 0.25

    assert orthonormality_defect(rows) == 0.25
    assert orthonormality_defect(torch.zeros(1, 3, 5, dtype=torch.float64)) == 0
