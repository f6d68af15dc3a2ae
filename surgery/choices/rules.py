"""Where to cut: the rules a user can choose, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from math import log1p
from typing import Literal

from surgery.errors import UsageError

Layout = Literal["ragged", "block", "tied", "model"]
SeamName = str
"""What an architecture calls an inner axis along which vectors can go: ``qk``, ``vo``."""
ATTENTION_SEAMS: tuple[SeamName, ...] = ("qk", "vo")
"""Those of an attention block, in the order it computes them."""
Of = Literal["qkvo", "tower", "model"]
LAYOUTS: tuple[Layout, ...] = ("ragged", "block", "tied", "model")
OF: tuple[Of, ...] = ("qkvo", "tower", "model")

LITTLE_ERROR = 0.1
LITTLE_PERPLEXITY = 0.1
OTHER_TEXT = 6.0
"""How many times the divergence is on text of another kind than was calibrated on: of a SmolLM2 cut
by what ships, 5.5 times on web text and 5.8 on an encyclopedia (``benchmarks/bare_price.py``)."""


@dataclass(frozen=True)
class Lossless:
    """Restructure only: every rank stays full."""


@dataclass(frozen=True)
class Thresholds:
    """Cut singular values at or below an absolute threshold, as the CLOVER paper does."""

    qk: float | None = None
    vo: float | None = None

    def of(self, seam: SeamName) -> float | None:
        """Return the threshold of a seam; ``None``: it is not cut."""
        found: float | None = getattr(self, seam, None)
        return found


@dataclass(frozen=True)
class Energy:
    """Keep the smallest rank that holds this fraction of each unit's squared spectrum."""

    fraction: float


@dataclass(frozen=True)
class Remove:
    """Remove so many parameters (weights and biases), as a fraction of ``of``.

    One budget over all layers, heads and both pairs: components go in the order of the damage
    that they are predicted to do, per parameter; without calibration, of their share of their
    head's energy. With ``per_pair`` QK and VO are cut by the fraction each, in the order of
    plain singular values, as in the paper.

    ``of`` says what the fraction is of: ``qkvo``, the attention in scope; ``tower``, the encoder
    or decoder that it belongs to; ``model``. All of it is taken from the attention in scope.
    """

    fraction: float
    per_pair: bool = False
    of: Of = "qkvo"


@dataclass(frozen=True)
class MaxError:
    """Remove as much as keeps the error of the model's output within a bound.

    The relative error of an encoder's output or of last hidden states; for a model that predicts
    tokens, the KL divergence in nats a token.
    """

    error: float


@dataclass(frozen=True)
class MaxWerIncrease:
    """Remove as much as raises the word error rate by at most so many points (per cent)."""

    points: float


@dataclass(frozen=True)
class MaxPplIncrease:
    """Remove as much as raises the perplexity by at most this fraction of it."""

    fraction: float


@dataclass(frozen=True)
class UpTo:
    """Remove this fraction of the attention in scope, or as much less as does little harm.

    Little is a relative error of an encoder's output or of last hidden states of at most
    :data:`LITTLE_ERROR`; for a model that predicts tokens, a perplexity that rises by at most the
    fraction :data:`LITTLE_PERPLEXITY` of itself, and a divergence that is no more than that is
    worth (:func:`little_divergence`).
    """

    fraction: float


def little_divergence(*, shipped: bool) -> float:
    """Return the most divergence, in nats a token, that the tool allows itself.

    Calibrated on what ships, and not on text like the user's own, a part of it: the user's text
    will see :data:`OTHER_TEXT` times as much.
    """
    return log1p(LITTLE_PERPLEXITY) / (OTHER_TEXT if shipped else 1.0)


Bound = MaxError | MaxWerIncrease | MaxPplIncrease
"""A budget to be found: the most that keeps within a bound on calibration data."""

Rule = Lossless | Thresholds | Energy | Remove | UpTo | Bound


def check_rule(rule: Rule) -> None:
    """Refuse numbers out of range.

    Raises:
        UsageError: With the option's name, the number and the range.
    """
    for value, name, low, high in _numbers(rule):
        if not low <= value <= high:
            raise UsageError(f"{name} is out of range", found=value, expected=f"{low} … {high}")


def _numbers(rule: Rule) -> list[tuple[float, str, float, float]]:
    match rule:
        case Thresholds(qk, vo):
            infinity = float("inf")
            return [
                (value, name, 0.0, infinity)
                for value, name in ((qk, "--threshold-qk"), (vo, "--threshold-vo"))
                if value is not None
            ]
        case Energy(fraction):
            return [(fraction, "--energy", 0.0, 1.0)]
        case Remove(fraction):
            return [(fraction, "--remove", 0.0, 1.0)]
        case UpTo(fraction):
            return [(fraction, "--up-to", 0.0, 1.0)]
        case MaxError(error):
            return [(error, "--max-error", 0.0, float("inf"))]
        case MaxWerIncrease(points):
            return [(points, "--max-wer-increase", 0.0, 100.0)]
        case MaxPplIncrease(fraction):
            return [(fraction, "--max-ppl-increase", 0.0, float("inf"))]
    return []
