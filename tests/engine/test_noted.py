"""What was noted is what was found, to the last bit; what is no such figure is found anew."""

from __future__ import annotations

import json
from typing import Any

import pytest

from surgery.calibration.held_out import Change, Price
from surgery.engine.measure.noted import noted, number
from surgery.engine.measure.priced import in_words, price
from surgery.evaluation.bootstrap import Estimate
from surgery.events import Event

CHANGE = Change(0.1 + 0.2, 1 / 3, Estimate(1e-300, None, 2.0), words=9)
PRICE = Price(3, "next token", Estimate(0.7, 0.1, float("inf")), 0.9, CHANGE, None)


class Book:
    """A journal, by way of JSON as a journal is."""

    def __init__(self, **lines: Any) -> None:
        self.lines = {key: json.dumps(value) for key, value in lines.items()}

    def done(self, key: str) -> bool:
        return key in self.lines

    def record(self, key: str, payload: Any = None) -> None:
        self.lines[key] = json.dumps(payload)

    def payload(self, key: str) -> Any:
        return json.loads(self.lines[key])


class Rows:
    """Rows that can be read once."""

    def __init__(self, counted: Change | None) -> None:
        self.counted, self.asked = counted, list[str]()

    def price(self, *_: Any) -> Price:
        self.asked.append("price")
        return PRICE

    def word_errors(self, in_place: Any, told: Any) -> Change | None:
        self.asked.append("words")
        told(0.5)
        return self.counted


@pytest.mark.parametrize("counted", [CHANGE, None])
def test_a_price_and_its_words_are_found_once(counted: Change | None) -> None:
    rows: Any = Rows(counted)
    book, events = Book(), list[Event]()
    for _ in range(2):
        found = price(rows, lambda: None, events.append, book, "a")  # type: ignore[arg-type, return-value]
        found = in_words(found, rows, lambda: None, events.append, book, "a")  # type: ignore[arg-type, return-value]
        assert (found.error, found.perplexity, found.word_errors) == (
            PRICE.error,
            PRICE.perplexity,
            counted,
        )
    assert rows.asked == ["price", "words"]
    assert [event.done for event in events] == [0, 0.5, 1, 0, 1]


@pytest.mark.parametrize("other", [None, "1.0", 1, [1.0], {"value": 1.0}])
def test_what_is_no_figure_is_found_anew(other: Any) -> None:
    book = Book(key=other)
    assert noted(book, "key", lambda: 2.5, number) == 2.5
    assert noted(book, "key", lambda: 3.5, number) == 2.5
    assert noted(None, "key", lambda: 3.5, number) == 3.5
