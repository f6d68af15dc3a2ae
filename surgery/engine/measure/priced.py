"""A price on held-out rows: counted once in a run, however often it is resumed, and told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from surgery.calibration.held_out import Change, HeldOut, InPlace, Price
from surgery.engine.measure.noted import Notes, noted
from surgery.evaluation.bootstrap import Estimate
from surgery.events import Event, Progress
from surgery.report.model import calibration

WORDS = "Counting word errors"


def price(
    rows: HeldOut, in_place: InPlace, progress: Progress, notes: Notes | None, key: str
) -> Price:
    """Return what a cut costs on held-out rows, word errors aside.

    Args:
        rows: The rows.
        in_place: Puts the cut in place.
        progress: Called with :class:`surgery.events.Event`.
        notes: Where a resumed run finds it, if anywhere.
        key: Says which cut it is.
    """
    return noted(notes, f"price:{key}", lambda: rows.price(in_place, progress), _price)


def in_words(
    known: Price,
    rows: HeldOut,
    in_place: InPlace,
    progress: Progress,
    notes: Notes | None,
    key: str,
) -> Price:
    """Count word errors, too, where held-out recordings have words; see :func:`price`."""

    def count() -> Change | None:
        return rows.word_errors(in_place, lambda share: progress(Event(WORDS, share, 1)))

    progress(Event(WORDS, 0, 1))
    counted = noted(notes, f"words:{key}", count, _change)
    progress(Event(WORDS, 1, 1))
    return replace(known, word_errors=counted)


def told(found: Price) -> calibration.HeldOut:
    """Return what a report says of a price."""
    figure, change = "", found.perplexity or found.word_errors
    if change is not None:
        figure = "perplexity" if found.perplexity is not None else "word error rate"
    return calibration.HeldOut(
        rows=found.rows,
        error=_interval(found.error),
        agreement=found.agreement,
        figure=figure,
        before=None if change is None else change.before,
        after=None if change is None else change.after,
        difference=None if change is None else _interval(change.difference),
        words=None if change is None else change.words,
    )


def _price(plain: dict[str, Any]) -> Price:
    read = {
        "error": Estimate(**plain["error"]),
        "perplexity": _change(plain["perplexity"]),
        "word_errors": _change(plain["word_errors"]),
    }
    return Price(**plain | read)


def _change(plain: dict[str, Any] | None) -> Change | None:
    if plain is None:
        return None
    return Change(**plain | {"difference": Estimate(**plain["difference"])})


def _interval(estimate: Estimate) -> calibration.Interval:
    return calibration.Interval(estimate.value, estimate.low, estimate.high)
