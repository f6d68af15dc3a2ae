"""What there is to run for a smaller model, what that costs, and what else was tried: data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from surgery.report.model.calibration import Calibration


@dataclass(frozen=True)
class Tried:
    """One way to what was asked, fitted and run; or refused.

    Attributes:
        options: What sets it apart: layout, seams and scope.
        parameters: How many are left; ``None`` where it was refused.
        bytes: What its safetensors would take.
        removed: Share of the model that goes.
        eight_bits: What the result would take as ``int8`` and as ``q8_0``, in bytes.
        told: What real input told: ``measured`` on rows for trials, which chose, and the price on
            rows that did not, ``held_out``.
        refused: Why it cannot be had; empty where it can.
        rejected: Why another was chosen; empty for the one that was.
    """

    options: dict[str, Any]
    parameters: int | None = None
    bytes: int | None = None
    removed: float | None = None
    eight_bits: dict[str, int] = field(default_factory=dict)
    told: Calibration | None = None
    refused: str = ""
    rejected: str = ""


@dataclass(frozen=True)
class Alternative:
    """Numbers stored in fewer bits, in bytes.

    Attributes:
        name: Of the type.
        original: Of the original.
        result: Of what the command makes.
    """

    name: str
    original: int
    result: int


@dataclass(frozen=True)
class ModelPlan:
    """What to run.

    Attributes:
        model: The model's name.
        asked: What was asked for, as on the command line.
        command: The command that does it.
        parameters: Of the original.
        bytes: What its safetensors take.
        tried: Every candidate, in order.
        alternatives: What else makes it smaller, and works on the result, too.
        notes: What to know.
    """

    model: str
    asked: str
    command: str
    parameters: int
    bytes: int
    tried: list[Tried]
    alternatives: list[Alternative]
    notes: list[str] = field(default_factory=list)

    @property
    def chosen(self) -> Tried:
        """What the command makes."""
        return next(one for one in self.tried if not (one.refused or one.rejected))
