"""Find the largest budget that keeps within a bound on calibration data."""

from __future__ import annotations

from collections.abc import Callable
from math import log1p

from surgery.engine.cut.pricing import Pricing
from surgery.engine.measure.largest import Told, largest
from surgery.engine.measure.rise import limit_of, rise_of
from surgery.events import Progress
from surgery.methods import Bound, MaxError, MaxPplIncrease
from surgery.report.model.calibration import SearchStep

CLOSE = 0.005  # of the attention in scope: a narrower bracket is not worth a try


def search(bound: Bound, pricing: Pricing, progress: Progress) -> tuple[float, list[SearchStep]]:
    """Return the largest budget found within the bound, 0 if none is, and every try.

    Args:
        bound: What has to hold.
        pricing: Prices of the model's cuts.
        progress: Receives one event a try.

    Raises:
        UsageError: The calibration data cannot tell: it has no transcripts, or is of another
            kind.
    """
    price = _price(bound, pricing, progress)
    first = _guess(bound, pricing)
    return largest(price, limit_of(bound), first, pricing.most, CLOSE, progress)


def _price(bound: Bound, pricing: Pricing, progress: Progress) -> Callable[[float, Told], float]:
    """Return what a budget costs in the bound's own unit."""
    run = pricing.run
    if isinstance(bound, MaxError):
        if run.data is None:  # saved statistics alone: nothing to run, trust the prediction
            return lambda at, _: pricing.expected(pricing.ranks(at))
        return lambda at, _: pricing.measured(pricing.ranks(at))
    rise = rise_of(bound, run, run.settings.language, run.spill, progress)

    def increase(at: float, told: Told) -> float:
        ranks = pricing.ranks(at)
        return rise(pricing.key(ranks), lambda: pricing.in_place(ranks), told)

    return increase


def _guess(bound: Bound, pricing: Pricing) -> float:
    """Return where to begin: the largest budget that is predicted to keep the bound."""
    low, high = 0.0, pricing.most
    match bound:
        case MaxError(error):
            limit = error
        case MaxPplIncrease(fraction):  # the divergence is close to what log-perplexity rises by
            limit = log1p(fraction)
        case _:  # what an encoder's error does to words is for the recordings to tell
            return high / 2
    if not pricing.run.settings.tries:  # nothing is predicted
        return high / 2
    while high - low > CLOSE / 4:
        at = (low + high) / 2
        if pricing.expected(pricing.ranks(at)) <= limit:
            low = at
        else:
            high = at
    return max(low, CLOSE)
