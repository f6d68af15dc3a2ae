"""What a user can ask of calibration, checked and in a form that can be written down."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from surgery.engine.measure.shipped import SHIPPED
from surgery.errors import UsageError
from surgery.methods import RIDGE

PADDING_WEIGHT = 0.1
"""What a frame of the silence that fills up a Whisper window counts, against 1 for sound."""


@dataclass(frozen=True)
class Calibrate:
    """Calibration on real input.

    Attributes:
        data: Folder of recordings, a recording, a text file, ``.jsonl``, or a folder of those;
            :data:`SHIPPED` for what comes with the package; ``None`` where ``statistics`` holds
            everything.
        statistics: File that statistics are kept in: read where it exists, else written.
        padding_weight: What a frame of padding counts, 0 to 1.
        ridge: Share of white input in every second moment, 0 to 1.
        varied: Vary the recordings, so that other voices and rooms are not cut away.
        samples: Take only the first so many recordings or documents.
        language: What is spoken, for a multilingual Whisper's decoder.
        device: Where the model runs; the CPU by default.
        trials: Cut every pair on trial, to learn how much the output minds each. That takes
            hundreds of passes of a large model; without, what a head loses is weighed by its
            share of that head's energy. By default only where the data is the user's own.
        refit: Fit every output projection to what is left of its heads
            (:mod:`surgery.calibration.refit`): three more passes over the data. By default only
            where the data is the user's own.

    Raises:
        UsageError: There is neither data nor statistics, or a number is out of range.
    """

    data: str | None = None
    statistics: str | None = None
    padding_weight: float = PADDING_WEIGHT
    ridge: float = RIDGE
    varied: bool = True
    samples: int | None = None
    language: str = "en"
    device: str | None = None
    trials: bool | None = None
    refit: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.data is None and self.statistics is None:
            raise UsageError(
                "Calibration needs data or saved statistics",
                expected="--calibrate DIR|FILE, --statistics FILE, or both",
            )
        if self.refit and self.data is None:
            raise UsageError(
                "Outputs are refitted by running the model, and there is no data",
                found="--refit",
                hint="give --calibrate DIR|FILE",
            )
        for name, value in (("--padding-weight", self.padding_weight), ("--ridge", self.ridge)):
            if not (isfinite(value) and 0 <= value <= 1):
                raise UsageError(f"{name} is out of range", found=value, expected="0 … 1")

    @property
    def tries(self) -> bool:
        """Whether every pair is cut on trial."""
        return self.data != SHIPPED if self.trials is None else self.trials

    @property
    def refits(self) -> bool:
        """Whether output projections are fitted to what is left."""
        return self.data not in (None, SHIPPED) if self.refit is None else self.refit

    def plain(self) -> dict[str, Any]:
        """Return the settings as JSON values, by the command line's names.

        They travel with the result, so of the data's place only its last two names are kept, and
        one of the statistics'; what the data held is part of the provenance.
        """
        data = self.data
        if data is not None and data != SHIPPED:
            data = "/".join(Path(data).resolve().parts[-2:])
        return {
            "calibrate": data,
            "statistics": None if self.statistics is None else Path(self.statistics).name,
            "trials": self.trials,
            "refit": self.refit,
            "padding_weight": self.padding_weight,
            "ridge": self.ridge,
            "as_recorded": not self.varied,
            "samples": self.samples,
            "language": self.language,
        }
