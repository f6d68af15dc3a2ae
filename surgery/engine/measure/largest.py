"""Find the largest budget whose price keeps within a limit, in few tries."""

from __future__ import annotations

from collections.abc import Callable

from surgery.events import Event, Progress
from surgery.report.model.calibration import SearchStep

STAGE = "Searching the budget"
TRIES = 8
EXPONENT = 1.5
"""How prices grow with the budget, about; it only says where to try next."""

Told = Callable[[float], None]
"""Called with which share of something is done."""


def largest(
    price: Callable[[float, Told], float],
    limit: float,
    first: float,
    most: float,
    close: float,
    progress: Progress,
) -> tuple[float, list[SearchStep]]:
    """Return the largest budget found within the limit, 0 if none is, and every try.

    The price of a budget rises with it, but for noise: the bracket between the largest budget that
    kept the limit and the smallest that broke it is narrowed, by the power law from what was just
    tried, until it is small.

    Args:
        price: Of a budget.
        limit: The most it may be.
        first: Budget to try first.
        most: Largest budget there is.
        close: A narrower bracket is not worth a try.
        progress: Receives one event a try, and what :data:`Told` says.
    """
    low, high, at, steps = 0.0, most, min(first, most), list[SearchStep]()

    def told(share: float) -> None:
        progress(Event(STAGE, len(steps) + share, TRIES, f"{at:.1%} removed"))

    while True:
        told(0.0)
        value = price(at, told)
        steps.append(SearchStep(at, value, value <= limit))
        low, high = (at, high) if value <= limit else (low, at)
        if len(steps) == TRIES or high - low <= close:
            progress(Event(STAGE, TRIES, TRIES))
            return low, steps
        margin = (high - low) / 8  # inside the bracket, away from its ends
        guess = high if value <= 0 else 0.0  # NaN keeps no limit
        if value > 0:
            guess = at * (limit / value) ** (1 / EXPONENT)
        at = min(max(guess, low + margin), high - margin)
