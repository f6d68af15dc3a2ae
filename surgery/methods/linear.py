"""What every method for linear maps gives: a weight to freeze and a small part to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Generator, Tensor


@dataclass(frozen=True)
class LinearStart:
    """A linear map at the start of its new life: frozen weight, small part, and what is known.

    Attributes:
        weight: What stays frozen ``(out, in)``, in the dtype of the computation; ``None`` where
            the weight stays as it is.
        parts: The small part's tensors by name, float32.
        spectrum: Singular values that were split off, descending ``(rank,)``.
        captured: Share of the squared Frobenius norm that they hold.
        shortfall: Certified upper bound of how much more the best part of this rank would
            hold, relative to that best.
        defect: Largest departure of the small part's factors from orthonormality.
    """

    weight: Tensor | None
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    spectrum: Tensor | None = None
    captured: float | None = None
    shortfall: float | None = None
    defect: float | None = None


class Treatment(Protocol):
    """A method with its settings: how one linear map begins."""

    @property
    def name(self) -> str:
        """What it is called in commands and in ``config.json``."""

    @property
    def usual_targets(self) -> tuple[str, ...]:
        """Roles it treats when nobody says; empty: all."""

    @property
    def starts_exact(self) -> bool:
        """Whether it begins as the original map, to the cast."""

    def entry(self) -> dict[str, Any]:
        """Return what the runtime must know about one map, as JSON values."""

    def check(self, out_features: int, in_features: int, /) -> str | None:
        """Say why a map of this shape cannot be treated; ``None`` where it can."""

    def start(self, weight: Tensor, generator: Generator, /) -> LinearStart:
        """Treat one map.

        Args:
            weight: ``(out, in)`` in its stored dtype; not modified.
            generator: Where randomness comes from.
        """
