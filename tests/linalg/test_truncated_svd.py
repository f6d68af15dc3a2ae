"""The truncated SVD against the full one in float64, and its certificate against the truth."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.linalg import TruncatedSVD, truncated_svd

SPECTRA: dict[str, Callable[[Tensor], Tensor]] = {
    "exponential": lambda i: 0.97**i,
    "steep": lambda i: 0.7**i,
    "power law": lambda i: (i + 5) ** -0.7,
    "slow": lambda i: (i + 5) ** -0.3,
    "nearly flat": lambda i: (i + 5) ** -0.05,
    "flat": torch.ones_like,
    "plateaus": lambda i: 2.0 ** -(i // 25),
    "low rank": lambda i: torch.where(i < 12, 1 / (i + 1), torch.zeros_like(i)),
    "noise floor": lambda i: 0.8**i + 0.01,
    "one large": lambda i: torch.where(i < 1, 1e4 + 0 * i, (i + 1) ** -0.5),
}
SHAPES = ((300, 300), (420, 280), (280, 420))


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64)).Q


def matrix(rows: int, columns: int, spectrum: str, seed: int, dtype: torch.dtype) -> Tensor:
    """A matrix with a given spectrum in random bases."""
    generator = torch.Generator().manual_seed(seed)
    least = min(rows, columns)
    s = SPECTRA[spectrum](torch.arange(least, dtype=torch.float64))
    u, v = orthonormal(rows, least, generator), orthonormal(columns, least, generator)
    return ((u * s) @ v.T).to(dtype)


def check(a: Tensor, rank: int, found: TruncatedSVD) -> None:
    """What must hold of every result, whichever way it was found."""
    eps = torch.finfo(a.dtype).eps
    wide = a.double()
    singular = torch.linalg.svdvals(wide)
    best = float(singular[:rank].square().sum())
    energy = float(wide.square().sum())

    # Shapes, order, orthonormality as reported.
    assert found.u.shape == (a.shape[0], rank)
    assert found.vt.shape == (rank, a.shape[1])
    assert found.u.dtype == found.s.dtype == found.vt.dtype == a.dtype
    assert (found.s.diff() <= 0).all()
    assert (found.s >= 0).all()
    identity = torch.eye(rank, dtype=torch.float64)
    u, vt = found.u.double(), found.vt.double()
    defects = [float((u.T @ u - identity).norm()), float((vt @ vt.T - identity).norm())]
    assert found.defect == pytest.approx(max(defects), rel=1e-6, abs=1e-12)
    assert found.defect <= 1e-5

    # The certificate tells the truth: no more is missing than it says.
    taken = float(found.s.double().square().sum())
    assert found.shortfall >= 0
    assert best - taken <= found.shortfall * best + 1e-30
    assert found.captured == pytest.approx(taken / energy, rel=1e-5) if energy else True
    assert taken <= best * (1 + 100 * max(a.shape) ** 0.5 * eps) + 1e-30

    # The triplets are a part of the matrix: taking them out leaves the rest of the energy.
    rest = wide - (u * found.s.double()) @ vt
    noise = 4 * max(a.shape) ** 0.5 * eps * energy + 1e-30
    assert float(rest.square().sum()) <= energy - taken + noise


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(SPECTRA)),
    st.sampled_from(SHAPES),
    st.integers(1, 45),
    st.integers(0, 10**6),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_what_it_reports_holds_for_every_spectrum(
    spectrum: str, shape: tuple[int, int], rank: int, seed: int, dtype: torch.dtype
) -> None:
    a = matrix(*shape, spectrum, seed, dtype)
    found = truncated_svd(a, rank, generator=torch.Generator().manual_seed(seed))
    check(a, rank, found)
    assert found.shortfall <= 1e-3  # small enough for the full SVD as a way out


@pytest.mark.parametrize("spectrum", ["exponential", "power law", "slow", "plateaus"])
def test_decaying_spectra_are_certified_without_the_full_svd(spectrum: str) -> None:
    a = matrix(768, 600, spectrum, 1, torch.float32)
    found = truncated_svd(a, 64)
    check(a, 64, found)
    assert found.method == "krylov"
    assert found.shortfall <= 1e-3


def test_a_tighter_tolerance_is_kept() -> None:
    a = matrix(500, 400, "power law", 2, torch.float64)
    found = truncated_svd(a, 20, tolerance=1e-9)
    check(a, 20, found)
    assert found.shortfall <= 1e-9
    singular = torch.linalg.svdvals(a)[:20]
    torch.testing.assert_close(found.s, singular, rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (300, 260)])
def test_the_full_method_is_the_full_svd(shape: tuple[int, int]) -> None:
    a = matrix(*shape, "power law", 3, torch.float64)
    found = truncated_svd(a, 11, method="full")
    check(a, 11, found)
    u, s, vt = torch.linalg.svd(a, full_matrices=False)
    torch.testing.assert_close(found.s, s[:11])
    torch.testing.assert_close((found.u * found.s) @ found.vt, (u[:, :11] * s[:11]) @ vt[:11])
    assert found.method == "full"
    assert found.shortfall <= 1e-12


def test_large_flat_matrices_come_back_with_what_can_be_proved() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(1200, 1100, generator=generator)
    found = truncated_svd(a, 4, tolerance=1e-6, generator=generator)
    check(a, 4, found)
    assert found.method == "krylov"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5, 9), (400, 300), (1, 1)])
def test_zero_matrices_have_orthonormal_factors(shape: tuple[int, int], dtype: torch.dtype) -> None:
    found = truncated_svd(torch.zeros(shape, dtype=dtype), min(*shape, 7))
    check(torch.zeros(shape, dtype=dtype), min(*shape, 7), found)
    assert found.captured == 1.0


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_large_and_small_numbers_scale_through(scale: float) -> None:
    a = matrix(350, 300, "power law", 4, torch.float32)
    one = truncated_svd(a, 16)
    other = truncated_svd(a * scale, 16)
    torch.testing.assert_close(other.s.double() / scale, one.s.double(), rtol=1e-4, atol=0)
    assert other.captured == pytest.approx(one.captured, rel=1e-4)


def test_duplicate_rows_and_columns_are_ordinary() -> None:
    a = matrix(300, 150, "exponential", 5, torch.float32)
    doubled = torch.cat([a, a], dim=1)
    check(doubled, 30, truncated_svd(doubled, 30))


def test_the_same_generator_gives_the_same_bits_and_the_input_stays() -> None:
    a = matrix(500, 300, "power law", 6, torch.float32)
    kept = a.clone()
    one, other = (
        truncated_svd(a, 20, generator=torch.Generator().manual_seed(9)) for _ in range(2)
    )
    assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("u", "s", "vt"))
    assert torch.equal(a, kept)


def test_views_in_any_layout_are_taken() -> None:
    a = matrix(420, 280, "power law", 7, torch.float32)
    check(a.T, 20, truncated_svd(a.T, 20))
    wide = torch.cat([a, a], dim=1)[:, ::2]
    check(wide, 20, truncated_svd(wide, 20))


def test_the_largest_entry_of_every_left_vector_is_positive() -> None:
    for method in ("fast", "full"):
        u = truncated_svd(matrix(400, 300, "power law", 8, torch.float32), 9, method=method).u
        assert (u.gather(0, u.abs().argmax(dim=0, keepdim=True)) > 0).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: truncated_svd(torch.zeros(3, 4).half(), 2),
        lambda: truncated_svd(torch.zeros(3, 4), 0),
        lambda: truncated_svd(torch.zeros(3, 4), 4),
        lambda: truncated_svd(torch.ones(3, 4), 2, tolerance=0.0),
        lambda: truncated_svd(torch.tensor([[1.0, float("nan")], [0.0, 1.0]]), 1),
        lambda: truncated_svd(torch.tensor([[1.0, float("inf")], [0.0, 1.0]]), 1),
    ],
)
def test_what_cannot_be_decomposed_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"expected|must|NaN"):
        call()
