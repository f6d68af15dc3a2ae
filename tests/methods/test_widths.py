"""The cheapest parameters go first, over all blocks, until enough are gone."""

from __future__ import annotations

import random
from itertools import pairwise, product

import pytest

from surgery.methods.widths import WidthCosts, allowed_widths, choose_widths


def gone(blocks: dict[str, WidthCosts], widths: dict[str, int]) -> int:
    return sum((one.widths[0] - widths[name]) * one.parameters for name, one in blocks.items())


def random_blocks(seed: int, *, convex: bool) -> dict[str, WidthCosts]:
    draw = random.Random(seed)
    blocks = {}
    for name in "abc":
        widths = allowed_widths(draw.choice([20, 24, 30]), 8)
        prices = [draw.uniform(0, 3) for _ in widths[1:]]
        prices = sorted(prices) if convex else prices
        sizes = [was - now for was, now in pairwise(widths)]
        costs = [0.0]
        for price, size in zip(prices, sizes, strict=True):
            costs.append(costs[-1] + price * size)
        blocks[name] = WidthCosts(widths, costs, draw.choice([3, 5]))
    return blocks


def test_widths_are_the_block_itself_and_every_smaller_multiple() -> None:
    assert allowed_widths(20, 8) == [20, 16, 8, 0]
    assert allowed_widths(16, 8) == [16, 8, 0]
    assert allowed_widths(5, 8) == [5, 0]


@pytest.mark.parametrize("convex", [True, False], ids=["convex", "any"])
@pytest.mark.parametrize("seed", range(8))
def test_at_least_what_is_wanted_goes_less_half_a_step(seed: int, convex: bool) -> None:
    blocks = random_blocks(seed, convex=convex)
    for wanted in (1.0, 40.0, 90.0, 150.0):
        widths = choose_widths(blocks, wanted)
        assert all(width in blocks[name].widths for name, width in widths.items())
        assert gone(blocks, widths) >= wanted - 8 * 5 / 2


@pytest.mark.parametrize("seed", range(8))
def test_no_choice_that_removes_as_much_is_cheaper_where_prices_rise(seed: int) -> None:
    blocks = random_blocks(seed, convex=True)
    widths = choose_widths(blocks, 100.0)
    cost = dict.fromkeys(blocks, 0.0)

    def total(chosen: dict[str, int]) -> float:
        cost.update(
            {name: one.costs[one.widths.index(chosen[name])] for name, one in blocks.items()}
        )
        return sum(cost.values())

    least, mine = gone(blocks, widths), total(widths)
    names = [*blocks]
    for some in product(*(blocks[name].widths for name in names)):
        other = dict(zip(names, some, strict=True))
        if gone(blocks, other) >= least:
            assert total(other) >= mine - 1e-9


def test_a_dear_step_before_cheap_ones_is_taken_with_them() -> None:
    bump = WidthCosts([16, 8, 0], [0.0, 10.0, 11.0], 1)
    plain = WidthCosts([16, 8, 0], [0.0, 8.0, 20.0], 1)
    assert choose_widths({"bump": bump, "plain": plain}, 16.0) == {"bump": 0, "plain": 16}


def test_blocks_that_cost_the_same_lose_the_same() -> None:
    one = WidthCosts([24, 16, 8, 0], [0.0, 1.0, 3.0, 9.0], 2)
    assert choose_widths({"a": one, "b": one}, 64.0) == {"a": 8, "b": 8}
