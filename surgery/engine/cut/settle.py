"""Find a budget that does little harm: what the tool takes where nobody says how much."""

from __future__ import annotations

from surgery.calibration.held_out import Price
from surgery.choices.common import SHIPPED
from surgery.choices.rules import little_divergence
from surgery.engine.cut.pricing import Pricing
from surgery.engine.measure.largest import EXPONENT, largest
from surgery.events import Progress
from surgery.methods import LITTLE_ERROR, UpTo
from surgery.report.model.calibration import SearchStep

CLOSE = 0.01  # of the attention in scope: a narrower bracket is not worth a try
GENTLY = 0.95
"""The least step down where held-out rows do not confirm a budget; further ones are larger."""


def settle(
    rule: UpTo, pricing: Pricing, progress: Progress
) -> tuple[float, list[SearchStep], Price | None]:
    """Return the budget, every try, and the price on held-out rows.

    Tries are on the rows for trials; what they grant is confirmed on rows that had no part in
    it, and lowered where it does more harm there.

    Args:
        rule: The most that goes, and what is little harm.
        pricing: Prices of the model's cuts.
        progress: Receives one event a try.
    """
    limit = little(pricing)
    most = min(rule.fraction, pricing.most)
    low, steps = largest(lambda at, _: _tried(pricing, at), limit, most, most, CLOSE, progress)
    slower = GENTLY
    while low > 0:
        price = pricing.held_out(pricing.ranks(low))
        harm = None if price is None else harm_of(price)
        if harm is None or harm <= limit:
            return low, steps, price
        steps.append(SearchStep(low, harm, accepted=False))
        low *= min(slower, (limit / harm) ** (1 / EXPONENT))
        low, slower = (0.0 if low < CLOSE else low), GENTLY / 2
    return low, steps, pricing.held_out(pricing.ranks(low))


def little(pricing: Pricing) -> float:
    """Return the most harm that the tool allows itself, in the unit of the model's error."""
    if pricing.run.output != "next token":
        return LITTLE_ERROR
    return little_divergence(shipped=pricing.run.settings.data == SHIPPED)


def harm_of(price: Price) -> float:
    """Return what :func:`little` bounds: a relative error or a divergence.

    Or the rise of the log-perplexity where that is more: a divergence sees a change that happens
    to suit these rows, and will not suit others.
    """
    if price.perplexity is None:
        return price.error.value
    return max(price.error.value, price.perplexity.difference.value)


def _tried(pricing: Pricing, fraction: float) -> float:
    ranks = pricing.ranks(fraction)
    if pricing.run.data is not None:
        return pricing.measured(ranks)
    predicted = pricing.predicted(ranks)
    return float("inf") if predicted is None else predicted
