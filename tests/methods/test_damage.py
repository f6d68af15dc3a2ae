"""Curves from dropped energy to damage: through what was measured, and never down."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.methods import DamageCurve

shares = st.floats(1e-12, 1.0)
damages = st.one_of(st.just(0.0), st.floats(-1e-6, 1e3), st.floats(1e-30, 1e-9))
trials = st.lists(st.tuples(shares, damages), min_size=1, max_size=6)


@given(trials=trials, at=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=20))
def test_more_dropped_never_damages_less(
    trials: list[tuple[float, float]], at: list[float]
) -> None:
    curve = DamageCurve.measured(trials)
    assert curve is not None
    at = sorted([*at, *(dropped for dropped, _ in trials)])
    found = [curve(share) for share in at]
    assert all(math.isfinite(value) and value >= 0 for value in found)
    # exp and log each err by a few roundings, the exponent of at most 1e3 by as many more.
    for lower, higher in itertools.pairwise(found):
        assert lower <= higher * (1 + 1e-12)


@given(trials=trials)
def test_a_curve_passes_through_its_trials_or_above_those_that_noise_put_too_low(
    trials: list[tuple[float, float]],
) -> None:
    curve = DamageCurve.measured(trials)
    assert curve is not None
    highest = 0.0
    for dropped in sorted({dropped for dropped, _ in trials}):
        measured = max(damage for share, damage in trials if share == dropped)
        highest = max(highest, measured)
        assert curve(dropped) == pytest.approx(highest, rel=1e-12, abs=1e-290)


@given(share=st.floats(1e-9, 1.0), damage=st.floats(1e-9, 10.0), part=st.floats(0.0, 1.0))
def test_damage_is_proportional_to_what_is_dropped_where_little_is(
    share: float, damage: float, part: float
) -> None:
    for more in ((), ((1.0, 20.0),) if share < 1 else ()):
        curve = DamageCurve.measured([(share, damage), *more])
        assert curve is not None
        assert curve(part * share) == pytest.approx(part * damage, rel=1e-12)
    assert curve(0.0) == curve(-1e-18) == 0.0


def test_between_trials_and_beyond_them_it_follows_a_power() -> None:
    curve = DamageCurve((0.1, 0.4), (0.02, 0.32))
    for share in (0.1, 0.15, 0.2, 0.4, 0.8, 1.0):
        assert curve(share) == pytest.approx(2 * share**2, rel=1e-12)


def test_beyond_the_last_trial_it_rises_at_least_in_proportion() -> None:
    for damage in ((0.3, 0.3), (0.3, 0.31)):
        curve = DamageCurve((0.1, 0.4), damage)
        assert curve(0.8) == pytest.approx(2 * damage[1])
    assert DamageCurve((0.25,), (0.5,))(1.0) == 2.0


def test_a_steep_step_between_two_trials_is_taken_for_noise() -> None:
    """No law has the 30th power: what lies between is as dear as a fourth power makes it."""
    curve = DamageCurve((0.4, 0.5, 0.6), (1e-3, 1.0, 1.1))
    assert curve(0.4) == 1e-3
    assert curve(0.45) == pytest.approx(0.9**4)
    assert curve(0.5) == 1.0


def test_a_trial_that_noise_put_too_low_is_worth_what_came_before() -> None:
    curve = DamageCurve((0.1, 0.2, 0.3), (0.5, 0.4, 0.6))
    assert curve.damage == (0.5, 0.5, 0.6)
    assert curve(0.15) == curve(0.2) == 0.5


def test_cuts_that_did_nothing_cost_nothing() -> None:
    curve = DamageCurve((0.1, 0.2), (0.0, 0.0))
    assert 0.0 <= curve(0.05) <= curve(0.2) <= curve(1.0) < 1e-290
    rises = DamageCurve((0.1, 0.2), (0.0, 0.5))
    assert rises(0.1) < 1e-290 and rises(0.2) == 0.5


def test_trials_come_in_any_order_and_say_nothing_where_nothing_was_dropped() -> None:
    curve = DamageCurve.measured([(0.5, 0.7), (0.0, 0.0), (0.2, 0.1), (0.5, 0.6)])
    assert curve == DamageCurve((0.2, 0.5), (0.1, 0.7))
    assert DamageCurve.measured([(0.0, 0.0)]) is DamageCurve.measured([]) is None
    assert DamageCurve.measured([(1.0 + 1e-15, 0.3)]) == DamageCurve((1.0,), (0.3,))


@pytest.mark.parametrize(
    ("dropped", "damage"),
    [
        ((), ()),
        ((0.2, 0.1), (0.1, 0.2)),
        ((0.1, 0.1), (0.1, 0.2)),
        ((0.0, 0.1), (0.0, 0.2)),
        ((0.5, 1.5), (0.1, 0.2)),
        ((0.1, 0.2), (0.1,)),
        ((0.1,), (math.nan,)),
        ((0.1,), (math.inf,)),
        ((math.nan,), (0.1,)),
        ((0.1, math.nan), (0.1, 0.2)),
    ],
)
def test_what_is_no_curve_is_refused(dropped: tuple[float, ...], damage: tuple[float, ...]) -> None:
    with pytest.raises(ValueError):
        DamageCurve(dropped, damage)
