"""Whole layers that left a stack, and how they were chosen: plain dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LayerTower:
    """One tower.

    Attributes:
        scope: ``encoder`` or ``decoder``.
        before: Its layers.
        gone: Those that left, by their numbers in the original.
    """

    scope: str
    before: int
    gone: list[int]


@dataclass(frozen=True)
class LayerStep:
    """One layer that was chosen to leave.

    Attributes:
        layer: Its tower and number, as ``decoder:14``.
        value: Error of the output without it and those before it, on the rows of trials; or its
            influence.
        tried: The same of every layer that might have left instead.
    """

    layer: str
    value: float
    tried: dict[str, float]


@dataclass(frozen=True)
class LayersReport:
    """Layers that left.

    Attributes:
        towers: Every tower of the model, of which layers left or not.
        order: ``given``, or how they were chosen: ``trials``, ``influence``.
        steps: In the order they left, where they were chosen.
        unit: Of the steps' values, ``relative`` or ``nat/token``; empty for influences.
    """

    towers: list[LayerTower]
    order: str = "given"
    steps: list[LayerStep] = field(default_factory=list)
    unit: str = ""
