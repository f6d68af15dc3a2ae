"""One budget by measured damage, against every choice of ranks there is on small instances."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import UsageError
from surgery.methods import (
    LAYOUTS,
    DamageCurve,
    Layout,
    PairSpectrum,
    Ranks,
    Remove,
    SeamName,
    SiteSpectra,
    choose_ranks,
    most_removable,
    predicted_damage,
)
from surgery.methods.budget import _Allocation

Spectra = dict[str, SiteSpectra]

# Cheap at first, then dearer in proportion: the law of a smooth output, and of what lies beyond.
CONVEX = DamageCurve((0.05, 0.2, 0.6), (0.01, 0.05, 0.4))
LINEAR = DamageCurve((0.5,), (0.2,))


def spectrum(
    seed: int, heads: int, d: int, cost: int, step: int = 1, damage: DamageCurve | None = CONVEX
) -> PairSpectrum:
    draw = torch.Generator().manual_seed(seed)
    values = torch.rand(heads, d // step, generator=draw, dtype=torch.float64)
    values = values.sort(dim=-1, descending=True).values.repeat_interleave(step, dim=-1)
    return PairSpectrum(values, cost, step, damage=damage)


def scaled(curve: DamageCurve, by: float) -> DamageCurve:
    return DamageCurve(curve.dropped, tuple(by * each for each in curve.damage))


def model(
    seed: int, *, d: int = 4, costs: tuple[int, int] = (10, 7), rope: bool = False
) -> Spectra:
    """Two blocks with two heads each; a block's damage is its own."""
    return {
        site: {
            "qk": spectrum(seed + i, 2, d, costs[0], 1 + rope, scaled(CONVEX, 1.0 + i)),
            "vo": spectrum(seed + i + 9, 2, d, costs[1], 1, scaled(CONVEX, 3.0 - i)),
        }
        for i, site in enumerate(("a", "b"))
    }


def members(spectra: Spectra) -> list[tuple[str, SeamName, int]]:
    return [
        (site, pair, head)
        for site, pairs in spectra.items()
        for pair, each in pairs.items()
        for head in range(each.values.shape[0])
    ]


def removed(spectra: Spectra, ranks: Ranks) -> int:
    return sum(
        (spectra[site][pair].values.shape[1] - ranks[site][pair][head]) * spectra[site][pair].cost
        for site, pair, head in members(spectra)
    )


def whole(spectra: Spectra) -> int:
    return sum(
        each.values.numel() * each.cost for site in spectra.values() for each in site.values()
    )


def every_choice(spectra: Spectra) -> Iterator[tuple[int, float]]:
    """What each possible choice of ranks removes, and the damage that it is predicted to do."""
    tables = []
    for pairs in spectra.values():
        for each in pairs.values():
            heads, d = each.values.shape
            assert each.damage is not None
            total = float(each.values.square().sum())
            table: dict[int, float] = {}  # heads of a pair share a curve; least damage by removal
            for kept in itertools.product(range(each.step, d + 1, each.step), repeat=heads):
                lost = sum(
                    float(each.values[head, rank:].square().sum()) for head, rank in enumerate(kept)
                )
                gone = (heads * d - sum(kept)) * each.cost
                table[gone] = min(table.get(gone, math.inf), each.damage(lost / total))
            tables.append(table)
    for choice in itertools.product(*(table.items() for table in tables)):
        yield sum(gone for gone, _ in choice), sum(damage for _, damage in choice)


def least_damage(choices: Sequence[tuple[int, float]], at_least: float) -> float:
    return min((damage for gone, damage in choices if gone >= at_least), default=math.inf)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    fraction=st.floats(0, 0.8),
    layout=st.sampled_from(LAYOUTS),
    multiple=st.integers(1, 3),
    rope=st.booleans(),
    curve=st.sampled_from([CONVEX, LINEAR, DamageCurve((0.1, 0.3), (0.5, 0.5)), None]),
)
def test_a_budget_is_met_within_one_step_and_layouts_and_frequencies_stay_whole(
    seed: int,
    fraction: float,
    layout: Layout,
    multiple: int,
    rope: bool,
    curve: DamageCurve | None,
) -> None:
    d = 8
    spectra: Spectra = {
        site: {
            "qk": spectrum(seed + i, 2, d, 10, 1 + rope, curve),
            "vo": spectrum(seed + i + 9, 2, d, 7, 1, LINEAR if curve is not None else None),
        }
        for i, site in enumerate(("a", "b"))
    }
    try:
        ranks = choose_ranks(spectra, Remove(fraction), layout=layout, multiple=multiple)
    except UsageError as error:
        assert fraction > 1 - math.lcm(multiple, 1 + rope) / d - 1e-9, error
        return
    paired = math.lcm(multiple, 1 + rope)
    step = {
        "ragged": max(paired * 10, multiple * 7),
        "block": 2 * max(paired * 10, multiple * 7),
        "tied": 2 * paired * 17,
        "model": 4 * max(paired * 10, multiple * 7),
    }[layout]
    wanted = fraction * whole(spectra)
    assert wanted - 1e-6 <= removed(spectra, ranks) < wanted + step + 1e-6
    for pairs in ranks.values():
        for pair, kept in pairs.items():
            least = paired if layout == "tied" or pair == "qk" else multiple
            assert all(rank == d or rank % least == 0 for rank in kept)
            assert min(kept) >= least
            assert layout == "ragged" or len(set(kept)) == 1
        assert layout != "tied" or pairs["qk"] == pairs["vo"]
    assert layout != "model" or ranks["a"] == ranks["b"]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.integers(0, 12), rope=st.booleans())
def test_where_all_steps_cost_the_same_no_choice_damages_less(
    seed: int, steps: int, rope: bool
) -> None:
    """Whatever the (convex) curves: linear and equal ones are a case of it."""
    spectra = model(seed, costs=(5, 10) if rope else (10, 10), rope=rope)
    for given_spectra in (spectra, with_curve(spectra, LINEAR)):
        if rope and steps > 10:
            continue
        ranks = choose_ranks(given_spectra, Remove(steps * 10 / whole(given_spectra)))
        gone = removed(given_spectra, ranks)
        assert gone == steps * 10
        best = least_damage(list(every_choice(given_spectra)), gone)
        assert predicted_damage(given_spectra, ranks) <= best * (1 + 1e-9) + 1e-15


def with_curve(spectra: Spectra, curve: DamageCurve | None) -> Spectra:
    return {
        site: {
            pair: PairSpectrum(each.values, each.cost, each.step, damage=curve)
            for pair, each in pairs.items()
        }
        for site, pairs in spectra.items()
    }


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), fraction=st.floats(0.02, 0.7), rope=st.booleans())
def test_where_steps_differ_no_choice_that_removes_one_step_more_damages_less(
    seed: int, fraction: float, rope: bool
) -> None:
    """Convex curves: steps in the order of price are the best way to what they remove together."""
    spectra = model(seed, rope=rope)
    try:
        ranks = choose_ranks(spectra, Remove(fraction))
    except UsageError:
        assert rope
        return
    choices = list(every_choice(spectra))
    wanted = fraction * whole(spectra)
    mine, largest = predicted_damage(spectra, ranks), 10 * (1 + rope)
    assert mine >= least_damage(choices, wanted - 1e-6) * (1 - 1e-9)
    assert mine <= least_damage(choices, wanted + largest) * (1 + 1e-9)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    fraction=st.floats(0.02, 0.6),
    layout=st.sampled_from(LAYOUTS),
)
def test_what_is_given_back_leaves_the_budget_met_and_damages_no_more(
    seed: int, fraction: float, layout: Layout
) -> None:
    spectra = model(seed, d=8, costs=(3, 11))
    ranks = choose_ranks(spectra, Remove(fraction), layout=layout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Allocation, "_give_back", lambda *_: None)
        taken = choose_ranks(spectra, Remove(fraction), layout=layout)
    assert fraction * whole(spectra) - 1e-6 <= removed(spectra, ranks) <= removed(spectra, taken)
    assert predicted_damage(spectra, ranks) <= predicted_damage(spectra, taken)
    for site, pair, head in members(spectra):
        assert ranks[site][pair][head] >= taken[site][pair][head]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("multiple", [1, 3])
def test_the_most_that_can_go_can_go_and_no_more(layout: Layout, multiple: int) -> None:
    spectra = model(0, d=8, rope=True)
    most = most_removable(spectra, layout, multiple)
    ranks = choose_ranks(spectra, Remove(most / whole(spectra)), layout=layout, multiple=multiple)
    assert removed(spectra, ranks) == most
    with pytest.raises(UsageError, match="More is to be removed"):
        more = Remove((most + 1) / whole(spectra))
        choose_ranks(spectra, more, layout=layout, multiple=multiple)


def test_a_large_last_step_lets_smaller_ones_before_it_be_undone() -> None:
    spectra: Spectra = {
        "a": {
            "qk": PairSpectrum(torch.tensor([[1.0, 0.5]]).double(), 100, 1, damage=LINEAR),
            "vo": PairSpectrum(torch.tensor([[1.0, 0.01]]).double(), 10, 1, damage=LINEAR),
        }
    }
    # vo's step is cheap and goes first; then qk's is needed, which alone is enough.
    assert choose_ranks(spectra, Remove(50 / 220)) == {"a": {"qk": [1], "vo": [2]}}
    assert choose_ranks(spectra, Remove(101 / 220)) == {"a": {"qk": [1], "vo": [1]}}


def test_pairs_that_hurt_less_are_cut_more() -> None:
    harmless, harmful = (DamageCurve((0.5,), (at,)) for at in (1e-4, 1.0))
    even = torch.ones(2, 8, dtype=torch.float64)
    spectra: Spectra = {
        "a": {
            "qk": PairSpectrum(even, 1, 1, damage=harmless),
            "vo": PairSpectrum(even, 1, 1, damage=harmful),
        }
    }
    ranks = choose_ranks(spectra, Remove(0.4))["a"]
    # 12.8 of 32 vectors: 13 of the harmless 14 that may go.
    assert sum(ranks["qk"]) == 3 and ranks["vo"] == [8, 8]


def test_energy_already_lost_makes_the_next_step_dearer() -> None:
    """Two equal blocks whose damage is the square of the energy share the cut evenly."""
    square = DamageCurve((0.01, 1.0), (1e-4, 1.0))
    even = PairSpectrum(torch.ones(1, 8, dtype=torch.float64), 1, 1, damage=square)
    ranks = choose_ranks({"a": {"vo": even}, "b": {"vo": even}}, Remove(0.5))
    assert ranks == {"a": {"vo": [4]}, "b": {"vo": [4]}}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_the_predicted_damage_is_the_curves_at_what_each_pair_loses(seed: int, data: Any) -> None:
    spectra = model(seed)
    ranks: Ranks = {
        site: {pair: [data.draw(st.integers(1, 4)) for _ in range(2)] for pair in ("qk", "vo")}
        for site in spectra
    }
    expected = 0.0
    for site, pairs in spectra.items():
        for pair, each in pairs.items():
            energies = each.values.square().tolist()
            lost = sum(
                sum(row[rank:]) for row, rank in zip(energies, ranks[site][pair], strict=True)
            )
            assert each.damage is not None
            expected += each.damage(lost / sum(map(sum, energies)))
    assert predicted_damage(spectra, ranks) == pytest.approx(expected, rel=1e-12)


def test_damage_that_was_not_measured_is_not_predicted_unless_nothing_is_lost() -> None:
    """A block whose calibration showed nothing has energies of zero, and no trial to tell."""
    silent = PairSpectrum(torch.zeros(2, 4, dtype=torch.float64), 1)
    spectra: Spectra = {"a": {"qk": silent, "vo": spectrum(0, 2, 4, 1)}}
    assert predicted_damage(spectra, {"a": {"qk": [1, 1], "vo": [4, 4]}}) == 0.0
    ranks = choose_ranks(spectra, Remove(0.3))
    assert ranks["a"]["vo"] == [4, 4] and sum(ranks["a"]["qk"]) == 3
    unmeasured = with_curve(spectra, None)
    with pytest.raises(ValueError, match="a vo: no measured damage"):
        predicted_damage(unmeasured, {"a": {"qk": [1, 1], "vo": [3, 4]}})
