"""Where to cut: the rules a user can choose, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from surgery.errors import UsageError

Layout = Literal["ragged", "block", "tied"]
Pair = Literal["qk", "vo"]
LAYOUTS: tuple[Layout, ...] = ("ragged", "block", "tied")
PAIRS: tuple[Pair, ...] = ("qk", "vo")


@dataclass(frozen=True)
class Lossless:
    """Restructure only: every rank stays full."""


@dataclass(frozen=True)
class Thresholds:
    """Cut singular values at or below an absolute threshold, as the CLOVER paper does."""

    qk: float | None = None
    vo: float | None = None


@dataclass(frozen=True)
class Energy:
    """Keep the smallest rank that holds this fraction of each unit's squared spectrum."""

    fraction: float


@dataclass(frozen=True)
class Remove:
    """Remove this fraction of the attention parameters in scope (weights and biases).

    One budget over all layers, heads and both pairs: components go in the order of their
    share of their head's energy, per parameter. With ``per_pair`` QK and VO are cut by the
    fraction each, in the order of plain singular values, as in the paper.
    """

    fraction: float
    per_pair: bool = False


Rule = Lossless | Thresholds | Energy | Remove


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
    return []
