"""A narrow block behind others that were cut is fitted to what the original's block said."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from surgery.methods.neuron_refit import NarrowDown, anchored, narrow, output_error
from surgery.methods.neurons import NeuronMoments, Wanted

EPS = torch.finfo(torch.float64).eps
ROWS, F, WIDTH = 40, 9, 5


def drawn(seed: int, biased: bool) -> tuple[Tensor, Tensor | None, Tensor, Tensor, NeuronMoments]:
    """A block, its neurons behind cuts, and what it says without these."""
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    D, b = normal(WIDTH, F), normal(WIDTH) if biased else None
    before = normal(ROWS, F) + 0.5
    h = before + 0.3 * normal(ROWS, F)
    y = before @ D.T + (0 if b is None else b)
    wanted = Wanted(y.T @ h / ROWS, y.mean(0), float(y.square().sum()) / ROWS)
    return D, b, h, y, NeuronMoments(h.T @ h / ROWS, h.mean(0), float(ROWS), wanted)


def said(result: NarrowDown, h: Tensor) -> Tensor:
    bias = 0 if result.bias is None else result.bias
    return h[:, result.kept] @ result.down.T + bias


@pytest.mark.parametrize("biased", [True, False])
@given(seed=st.integers(0, 99), width=st.integers(0, F - 1), ridge=st.sampled_from([0.0, 0.03]))
def test_it_is_the_least_squares_solution(
    biased: bool, seed: int, width: int, ridge: float
) -> None:
    D, b, h, y, moments = drawn(seed, biased)
    kept = torch.randperm(F, generator=torch.Generator().manual_seed(seed))[:width].sort().values
    first = narrow(D, b, moments, kept, ridge=0.01)
    found = anchored(first, moments, ridge)
    rows, left = h[:, kept], y - h[:, kept] @ first.down.T
    if biased:
        rows, left = rows - rows.mean(0), left - left.mean(0)
    if width:
        damping = ridge * float(rows.square().mean()) * torch.eye(width, dtype=torch.float64)
        solved = torch.linalg.lstsq(
            torch.cat([rows, (ROWS * damping).sqrt()]), torch.cat([left, 0 * D[:, :width].T])
        ).solution
        # Normal equations square the condition, which is that of 40 random rows of 8.
        condition = float(torch.linalg.cond(rows)) ** 2
        bound = 1e3 * condition * EPS * (1 + float(D.abs().max()))
        assert float((found.down - first.down - solved.T).abs().max()) < bound
    if biased:
        assert found.bias is not None
        assert torch.allclose(said(found, h).mean(0), y.mean(0), rtol=0, atol=1e3 * EPS)
    assert output_error(D, b, moments, found)[0] <= output_error(D, b, moments, first)[0] + 1e-12


@pytest.mark.parametrize("biased", [True, False])
def test_errors_are_those_against_the_original(biased: bool) -> None:
    D, b, h, y, moments = drawn(0, biased)
    kept = torch.tensor([0, 3, 4, 7])
    for amends in ("refit", "none"):
        result = narrow(D, b, moments, kept, amends=amends)
        lost, whole = output_error(D, b, moments, result)
        assert lost == pytest.approx(float((y - said(result, h)).square().sum()) / ROWS, rel=1e-12)
        assert whole == pytest.approx(float(y.square().sum()) / ROWS, rel=1e-12)


@pytest.mark.parametrize("biased", [True, False])
def test_behind_no_cut_there_is_nothing_to_add(biased: bool) -> None:
    D, b, h, _, moments = drawn(1, biased)
    y = h @ D.T + (0 if b is None else b)
    alike = Wanted(y.T @ h / ROWS, y.mean(0), float(y.square().sum()) / ROWS)
    moments = NeuronMoments(moments.second, moments.mean, moments.weight, alike)
    first = narrow(D, b, moments, torch.tensor([0, 1, 2, 5, 8]), ridge=0.0)
    found = anchored(first, moments)
    assert torch.allclose(found.down, first.down, rtol=0, atol=1e4 * EPS)


def test_with_all_kept_it_stays_bit_for_bit() -> None:
    D, b, _, _, moments = drawn(2, True)
    whole = narrow(D, b, moments, torch.arange(F))
    found = anchored(whole, moments)
    assert torch.equal(found.down, D)
    assert found.bias is b


def test_dead_neurons_are_ordinary() -> None:
    D, b, h, y, _ = drawn(3, True)
    h[:, 2] = 0.0
    wanted = Wanted(y.T @ h / ROWS, y.mean(0), float(y.square().sum()) / ROWS)
    moments = NeuronMoments(h.T @ h / ROWS, h.mean(0), float(ROWS), wanted)
    kept = torch.tensor([0, 2, 3])
    found = anchored(narrow(D, b, moments, kept), moments, 0.0)
    assert bool(found.down.isfinite().all())


def test_without_what_is_wanted_it_is_refused() -> None:
    D, b, _, _, moments = drawn(4, True)
    bare = NeuronMoments(moments.second, moments.mean)
    with pytest.raises(ValueError, match="what the block is to say"):
        anchored(narrow(D, b, bare, torch.arange(4)), bare)
