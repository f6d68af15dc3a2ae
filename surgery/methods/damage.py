"""What dropping part of a pair does to a model's output, from a few measured cuts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, isfinite, log

TINY = 1e-300
STEEPEST = 4.0  # powers of the dropped energy: beyond it two trials differ by noise, not by law


@dataclass(frozen=True)
class DamageCurve:
    """Damage to the model's output as a function of the energy that one pair of one block loses.

    Below the smallest trial damage is proportional to the dropped energy, as it must be where
    everything is smooth; between trials, and beyond the last, it follows a power of it.

    Attributes:
        dropped: Share of the pair's energy that each trial dropped, ascending, above 0.
        damage: What was measured: a squared relative error, or a divergence in nats.

    Raises:
        ValueError: There is no trial, or shares are not ascending between 0 and 1.
    """

    dropped: tuple[float, ...]
    damage: tuple[float, ...]

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.dropped, self.dropped[1:], strict=False))
        ordered = ascending and self.dropped and self.dropped[0] > 0 and self.dropped[-1] <= 1
        if not ordered or len(self.dropped) != len(self.damage):
            raise ValueError(f"trials at {self.dropped} with damage {self.damage}")
        if not all(isfinite(value) for value in self.damage):
            raise ValueError(f"damage {self.damage}")
        # Noise must not make a larger cut look harmless: later trials are worth at least as much.
        rising, highest = [], TINY
        for value in self.damage:
            highest = max(highest, value)
            rising.append(highest)
        object.__setattr__(self, "damage", tuple(rising))

    @classmethod
    def measured(cls, trials: Sequence[tuple[float, float]]) -> DamageCurve | None:
        """Return the curve through trials ``(dropped share, damage)``; ``None`` without any.

        Trials that drop the same, or nothing, are left out.
        """
        kept: dict[float, float] = {}
        for dropped, damage in sorted(trials):
            if dropped > TINY:
                kept[min(dropped, 1.0)] = damage
        return cls(tuple(kept), tuple(kept.values())) if kept else None

    def __call__(self, share: float) -> float:
        """Return the damage of dropping this share of the pair's energy."""
        if share <= self.dropped[0] or len(self.dropped) == 1:
            return self.damage[0] * (max(share, 0.0) / self.dropped[0])
        right = min(bisect_left(self.dropped, share), len(self.dropped) - 1)
        x0, x1 = self.dropped[right - 1], self.dropped[right]
        y0, y1 = self.damage[right - 1], self.damage[right]
        power = min(log(y1 / y0) / log(x1 / x0), STEEPEST)
        if share > x1:
            return y1 * exp(max(power, 1.0) * log(share / x1))
        return y1 * exp(power * log(share / x1))
