"""Greedy elimination and the price of an order, against loops that invert anew at every step."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.linalg import elimination
from surgery.linalg.elimination import cheapest_first
from surgery.linalg.ordered import deleted_prices, refitted_prices

EPS = torch.finfo(torch.float64).eps


def system(n: int, d: int, seed: int, *, ridge: float = 1e-2) -> tuple[Tensor, Tensor]:
    """A with a diagonal of ones and a condition of at most n / ridge, and D."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, n, generator=draw, dtype=torch.float64)
    loud = torch.rand(n, generator=draw, dtype=torch.float64) ** 2 + 0.05
    mixed = (rows * loud) @ torch.randn(n, n, generator=draw, dtype=torch.float64)
    A = mixed.T @ mixed
    A += ridge * A.diagonal().mean() * torch.eye(n, dtype=A.dtype)
    scale = A.diagonal().sqrt()
    A = A / scale[:, None] / scale
    A.diagonal().fill_(1.0)
    return A, torch.randn(d, n, generator=draw, dtype=torch.float64)


def least_cost(A: Tensor, D: Tensor, gone: list[int]) -> float:
    """min tr(X A Xᵀ) over X with X_:P = D_:P, by the Schur complement, column by column."""
    left = [i for i in range(len(A)) if i not in gone]
    if not gone:
        return 0.0
    S = A[gone][:, gone]
    if left:
        S = S - A[gone][:, left] @ torch.linalg.solve(A[left][:, left], A[left][:, gone])
    return float((D[:, gone] @ S * D[:, gone]).sum())


def naive(A: Tensor, D: Tensor) -> tuple[list[int], list[float]]:
    """Try every column at every step, each time from the beginning."""
    order: list[int] = []
    costs = [0.0]
    while len(order) < len(A):
        tries = {i: least_cost(A, D, [*order, i]) for i in range(len(A)) if i not in order}
        order.append(min(tries, key=tries.__getitem__))
        costs.append(tries[order[-1]])
    return order, [b - a for a, b in pairwise(costs)]


def ordered(A: Tensor, D: Tensor, **options: int) -> Tensor:
    return cheapest_first(torch.linalg.inv(A), D.T.clone(), least=1.0, **options)


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("block", [1, 5, 16])
@pytest.mark.parametrize("seed", range(3))
def test_the_cheapest_column_goes_at_every_step(seed: int, block: int) -> None:
    A, D = system(18, 7, seed)
    order, prices = naive(A, D)
    found = ordered(A, D, block=block)
    assert found.tolist() == order
    # The condition, 18 / 0.01, carries roundings of the inverse into prices.
    expected = torch.tensor(prices, dtype=torch.float64)
    bound = 1e4 * 18 * EPS * float(expected.sum())
    torch.testing.assert_close(refitted_prices(A, D, found), expected, rtol=0, atol=bound)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(1, 12), st.integers(0, 10**6), st.integers(1, 20))
def test_panels_change_nothing(n: int, d: int, seed: int, block: int) -> None:
    """A panel of 24 is flushed often, and one of 128 never, at these sizes."""
    A, D = system(n, d, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elimination, "PANEL", 24)
        often = ordered(A, D, block=block)
    never = ordered(A, D, block=block)
    assert sorted(often.tolist()) == list(range(n))
    a, b = (refitted_prices(A, D, order).cumsum(0) for order in (often, never))
    # Ties that rounding decides may go in another order; costs tell them from faults.
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("block", [1, 7, 16])
@pytest.mark.parametrize("ridge", [1.0, 0.01])
def test_the_updates_of_rounds_compose_to_the_closed_form(ridge: float, block: int) -> None:
    """What is left of D, and of H, after many rounds and panels, against one solution for all."""
    n, d = 160, 12
    A, D = system(n, d, 6, ridge=ridge)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elimination, "PANEL", 32)
        state = elimination._State(torch.linalg.inv(A), D.T.clone(), 1.0)
        while state.size - state.filled > n // 3:
            state.round(block)
        state._flush()
    left = state.names
    gone = torch.tensor([i for i in range(n) if i not in left.tolist()])
    inverse = torch.linalg.inv(A[left][:, left])
    wanted = D[:, left] + D[:, gone] @ A[gone][:, left] @ inverse
    size = len(left)
    # A condition of n / ridge at most, in roundings of float64: 1e-12 at the larger ridge.
    bound = 32 * n / ridge * EPS
    assert difference(state.D[:size].T, wanted) < bound
    assert difference(state.H[:size, :size], inverse) < bound
    assert difference(state.norms, wanted.square().sum(0)) < bound
    assert difference(state.pivots, inverse.diagonal()) < bound


@pytest.mark.parametrize("seed", range(3))
def test_rounds_cost_what_single_steps_do(seed: int) -> None:
    """A price may fall below a round's while it lasts: greedy either way, and as good."""
    A, D = system(300, 40, seed)
    rounds, single = (ordered(A, D, block=block) for block in (16, 1))
    a, b = (refitted_prices(A, D, order).cumsum(0) for order in (rounds, single))
    assert float((a / b - 1).abs().max()) < 0.05


def test_blocks_wider_than_a_panel_are_taken_as_panels() -> None:
    A, D = system(200, 20, 4)
    found = ordered(A, D, block=500)
    assert sorted(found.tolist()) == list(range(200))
    a, b = (refitted_prices(A, D, order).cumsum(0) for order in (found, ordered(A, D, block=1)))
    assert float((a / b - 1).abs().max()) < 0.05


def test_of_two_equal_columns_one_round_takes_one() -> None:
    """Both are free while the other is there: a round that believed both prices would take both."""
    A, D = system(30, 10, 5)
    A[4], A[:, 4] = A[9], A[:, 9]
    A[4, 4] = 1.0
    A = (A + 1e-6 * torch.eye(30, dtype=A.dtype)) / (1 + 1e-6)
    D[:, [4, 9]] += 3.0
    found = ordered(A, D, block=16).tolist()
    places = sorted((found.index(4), found.index(9)))
    prices = refitted_prices(A, D, torch.tensor(found))
    assert places[0] == 0 and places[1] > 1
    assert float(prices[0]) < 1e-4 * float(prices[places[1]])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 10**6))
def test_a_price_is_the_rise_of_the_least_cost(n: int, d: int, seed: int) -> None:
    A, D = system(n, d, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    prices = refitted_prices(A, D, order)
    costs = [least_cost(A, D, order[:k].tolist()) for k in range(n + 1)]
    bound = 1e4 * n * EPS * costs[-1]
    torch.testing.assert_close(
        prices.cumsum(0), torch.tensor(costs[1:], dtype=torch.float64), rtol=1e-10, atol=bound
    )
    assert float(prices.min()) >= 0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 10**6), st.integers(1, 50))
def test_a_deletion_costs_what_the_columns_that_are_gone_do(
    n: int, d: int, seed: int, at_once: int
) -> None:
    A, D = system(n, d, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    from surgery.linalg import ordered as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", at_once)
        deleted, refitted = (f(A, D, order) for f in (deleted_prices, refitted_prices))
    whole = float((D @ A * D).sum())
    for k in range(1, n + 1):
        gone = order[:k]
        cost = float((D[:, gone] @ A[gone][:, gone] * D[:, gone]).sum())
        assert float(deleted[:k].sum()) == pytest.approx(cost, abs=n * 64 * EPS * whole * n)
    assert float(deleted.sum()) == pytest.approx(whole, rel=n * 64 * EPS)
    assert float(refitted.sum()) == pytest.approx(whole, rel=n * 64 * EPS)


def test_pivots_that_rounding_spoils_cost_no_more_than_they_can() -> None:
    """float32 cannot hold this inverse; an order comes out all the same, and is a fair one."""
    A, D = system(120, 30, 7, ridge=1e-7)
    single = cheapest_first(torch.linalg.inv(A).float(), D.T.float(), least=1.0)
    double = ordered(A, D)
    assert sorted(single.tolist()) == list(range(120))
    a, b = (refitted_prices(A, D, order).cumsum(0) for order in (single, double))
    assert float(a[60]) <= 1.5 * float(b[60])


def test_a_block_of_nothing_is_refused() -> None:
    A, D = system(4, 2, 0)
    with pytest.raises(ValueError, match="blocks of 0"):
        ordered(A, D, block=0)
