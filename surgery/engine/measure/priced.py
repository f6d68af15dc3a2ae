"""A price on held-out rows as reports tell it."""

from __future__ import annotations

from surgery.calibration.held_out import Price
from surgery.evaluation.bootstrap import Estimate
from surgery.report.model.calibration import HeldOut, Interval


def told(price: Price) -> HeldOut:
    """Return what a report says of a price."""
    figure, change = "", price.perplexity or price.word_errors
    if change is not None:
        figure = "perplexity" if price.perplexity is not None else "word error rate"
    return HeldOut(
        rows=price.rows,
        error=_interval(price.error),
        agreement=price.agreement,
        figure=figure,
        before=None if change is None else change.before,
        after=None if change is None else change.after,
        difference=None if change is None else _interval(change.difference),
    )


def _interval(estimate: Estimate) -> Interval:
    return Interval(estimate.value, estimate.low, estimate.high)
