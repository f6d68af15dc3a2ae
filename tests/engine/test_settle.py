"""The tool's own budget: found in few tries, confirmed elsewhere, never beyond its bound."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.calibration.held_out import Price
from surgery.engine.cut.settle import CLOSE, settle
from surgery.engine.measure.largest import TRIES
from surgery.evaluation.bootstrap import Estimate
from surgery.events import ignore
from surgery.methods import LITTLE_ERROR, UpTo


@dataclass
class Priced:
    """A model whose error is a power of the budget, more or less on held-out rows."""

    scale: float
    exponent: float
    worse: float = 1.0
    most: float = 0.9
    held: bool = True
    tried: list[float] = field(default_factory=list)
    confirmed: list[float] = field(default_factory=list)
    run: Any = field(default_factory=lambda: SimpleNamespace(output="encoder output", data=()))

    def ranks(self, fraction: float) -> Any:
        return fraction

    def measured(self, fraction: float) -> float:
        self.tried.append(fraction)
        return self.scale * fraction**self.exponent

    def held_out(self, fraction: float) -> Price | None:
        self.confirmed.append(fraction)
        error = self.worse * self.scale * fraction**self.exponent
        return Price(3, "encoder output", Estimate(error)) if self.held else None


@given(
    st.floats(0.01, 10),
    st.floats(0.7, 4),
    st.floats(0.8, 3),
    st.floats(0.05, 0.95),
)
@settings(deadline=None)
def test_what_is_taken_keeps_the_bound_on_both_kinds_of_rows(
    scale: float, exponent: float, worse: float, most: float
) -> None:
    model: Any = Priced(scale, exponent, worse)
    fraction, steps, price = settle(UpTo(most), model, ignore)

    assert 0 <= fraction <= min(most, model.most)
    assert len(model.tried) <= TRIES and len(model.confirmed) <= 8
    assert price is not None and price.error.value <= LITTLE_ERROR
    assert scale * fraction**exponent <= LITTLE_ERROR
    assert model.confirmed[-1] == fraction
    assert all(step.accepted == (step.value <= LITTLE_ERROR) for step in steps)


@given(st.floats(0.1, 5), st.floats(1, 2))
@settings(deadline=None)
def test_hardly_less_is_taken_than_could_be(scale: float, exponent: float) -> None:
    model: Any = Priced(scale, exponent)
    fraction, _, _ = settle(UpTo(0.8), model, ignore)
    could = min(0.8, (LITTLE_ERROR / scale) ** (1 / exponent))

    assert fraction == pytest.approx(could, abs=2 * CLOSE + 0.02)


def test_where_the_whole_fraction_does_little_harm_one_try_is_enough() -> None:
    model: Any = Priced(0.01, 1)
    assert settle(UpTo(0.5), model, ignore)[0] == 0.5
    assert model.tried == [0.5] and model.confirmed == [0.5]


def test_a_model_that_bears_nothing_is_left_alone() -> None:
    for model in (Priced(1e6, 0.1), Priced(float("nan"), 1)):
        given_up: Any = model
        assert settle(UpTo(0.5), given_up, ignore)[0] == 0.0


def test_without_rows_to_confirm_it_what_was_tried_holds() -> None:
    model: Any = Priced(1.0, 1.5, held=False)
    fraction, _, price = settle(UpTo(0.5), model, ignore)
    assert price is None and fraction > 0 and fraction**1.5 <= LITTLE_ERROR
