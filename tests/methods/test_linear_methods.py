"""How each method for linear maps begins: the best split, and the identity."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.methods import Adopted, Goft, Hra, Pissa, Qgoft, Sorsa
from surgery.methods.linear import LinearStart
from tests.engine.linear_oracles import dense_weight, householder_product

DTYPES = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def weight_of(rows: int, columns: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A weight with a decaying spectrum."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(rows, rows, generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(columns, columns, generator=generator, dtype=torch.float64)).Q
    r = min(rows, columns)
    s = 3.0 * 0.8 ** torch.arange(r, dtype=torch.float64)
    return ((u[:, :r] * s) @ v[:, :r].T).to(dtype)


def begin(method: Any, weight: Tensor, seed: int = 0) -> LinearStart:
    return method.start(weight, torch.Generator().manual_seed(seed))


sizes = st.tuples(st.integers(2, 40), st.integers(2, 40), st.integers(0, 99))


@settings(max_examples=25, deadline=None)
@given(sizes, st.data(), st.sampled_from([Sorsa, Pissa]), st.sampled_from([0.5, 1.0, 2.0]))
def test_a_split_takes_the_best_part_and_leaves_exactly_the_rest(
    shape: tuple[int, int, int], data: st.DataObject, kind: Any, scale: float
) -> None:
    rows, columns, seed = shape
    rank = data.draw(st.integers(1, min(rows, columns)))
    weight = weight_of(rows, columns, seed)
    method = kind(rank=rank, scale=scale)
    start = begin(method, weight)
    assert start.weight is not None
    assert all(part.dtype == torch.float32 for part in start.parts.values())

    # Residual and principal part add up, to one rounding of the residual.
    whole = dense_weight(method.name, method.entry(), start.weight, start.parts)
    excess = (whole - weight.double()).abs() - 2.0**-24 * start.weight.double().abs()
    assert excess.max() <= 1e-12

    # No part of this rank captures more (Eckart and Young).
    u, s, vt = torch.linalg.svd(weight.double(), full_matrices=False)
    principal = (whole - start.weight.double()) / scale
    best = (u[:, :rank] * s[:rank]) @ vt[:rank]
    error, least = ((weight.double() - part).norm() for part in (principal, best))
    assert error <= least + 1e-5 * s[0]
    assert start.captured == pytest.approx(
        float(s[:rank].square().sum() / s.square().sum()), abs=1e-5
    )
    torch.testing.assert_close(start.spectrum.double(), s[:rank], rtol=1e-4, atol=1e-5 * s[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_sorsa_and_pissa_split_alike(dtype: torch.dtype) -> None:
    weight = weight_of(24, 40, 3, dtype)
    sorsa, pissa = (begin(kind(rank=6), weight) for kind in (Sorsa, Pissa))
    assert sorsa.weight is not None
    assert pissa.weight is not None
    assert sorsa.weight.dtype == torch.float32  # rounded later, once
    torch.testing.assert_close(sorsa.weight, pissa.weight, rtol=0, atol=2e-6)
    u, vt = sorsa.parts["sorsa_u"].double(), sorsa.parts["sorsa_vt"].double()
    for columns in (u, vt.T):
        identity = torch.eye(6, dtype=torch.float64)
        assert (columns.T @ columns - identity).norm() <= 1e-5
    assert sorsa.defect is not None
    assert sorsa.defect <= 1e-5


def test_fast_and_full_solvers_agree_where_the_spectrum_decays() -> None:
    weight = weight_of(400, 300, 5)
    fast = begin(Sorsa(rank=16, tolerance=1e-4), weight)
    full = begin(Sorsa(rank=16, solver="full"), weight)
    assert fast.captured is not None
    assert full.captured is not None
    assert fast.shortfall is not None
    assert fast.shortfall <= 1e-4
    assert full.captured - fast.captured <= fast.shortfall + 1e-6


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.integers(1, 8), st.integers(0, 99))
def test_hra_starts_as_the_identity_in_pairs_of_unit_columns(d: int, half: int, seed: int) -> None:
    start = begin(Hra(2 * half), weight_of(3, d, seed), seed)
    u = start.parts["hra_u"]
    assert start.weight is None
    assert u.shape == (d, 2 * half)
    assert torch.equal(u[:, 0::2], u[:, 1::2])
    torch.testing.assert_close(u.norm(dim=0), torch.ones(2 * half))
    identity = torch.eye(d, dtype=torch.float64)
    torch.testing.assert_close(householder_product(u), identity, rtol=0, atol=1e-12)


@pytest.mark.parametrize("d", [2, 3, 7, 16, 33])
@pytest.mark.parametrize("method", [Goft(), Qgoft()])
def test_givens_start_as_the_identity_exactly(d: int, method: Any) -> None:
    weight = weight_of(5, d, 0)
    start = begin(method, weight)
    whole = dense_weight(method.name, method.entry(), weight, start.parts)
    assert torch.equal(whole, weight.double())


def test_a_weight_that_is_given_is_not_changed() -> None:
    weight = weight_of(20, 30, 1)
    kept = weight.clone()
    for method in (Sorsa(4), Pissa(4), Hra(4), Goft(), Qgoft()):
        begin(method, weight)
        begin(method, weight.T)
        assert torch.equal(weight, kept)


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (Sorsa(9), "exceeds 8"),
        (Pissa(9), "exceeds 8"),
        (Hra(42), "only 20 inputs"),
        (Adopted("hra", {}, {}, (None, 21)), "made for 8 × 21"),
        (Adopted("pissa", {}, {}, (7, 20)), "made for 7 × 20"),
    ],
)
def test_maps_of_the_wrong_size_are_refused(method: Any, reason: str) -> None:
    assert reason in method.check(8, 20)


def test_one_input_makes_no_pair() -> None:
    assert Goft().check(8, 1) is not None
    assert Goft().check(8, 2) is None
