"""Word error rates of few words: what one word more or less is worth."""

from __future__ import annotations

from surgery.report.model.report import Measurement

ENOUGH = 100
"""Words from which on one more error is at most a point of word error rate."""


def few_words(words: int | None) -> str:
    """Say of how few words a rate is, and what one is worth; empty where they are enough."""
    if not words or words >= ENOUGH:
        return ""
    return f"only {words} word{'s' * (words > 1)}: one more error is {100 / words:.3g} points"


def data_words(one: Measurement) -> str:
    """Say what a figure was measured on, and of how few words it is."""
    few = few_words(one.words)
    return f"{one.data}, {few}" if few else one.data
