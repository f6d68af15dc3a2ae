"""What a user can ask of calibration, checked and in a form that can be written down."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from surgery.choices.common import PADDING_WEIGHT, RIDGE, SHIPPED
from surgery.choices.option import asked, spelled
from surgery.choices.places import data_name, given_path
from surgery.errors import UsageError

_option: Any = partial(asked, panel="Calibration: decide by what the model computes on real input")


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
        language: What is spoken, for a multilingual Whisper's decoder; ``auto``: what it hears in
            each recording.
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

    data: str | None = _option(
        None,
        "Recordings (Whisper), or text, .jsonl, or a folder of them. Default: 'shipped', what "
        "comes with surgery.",
        "--calibrate",
        metavar="DIR|FILE",
    )
    statistics: str | None = _option(
        None,
        "Keep what calibration found here; used again where it exists.",
        reads="path",
        metavar="FILE",
    )
    padding_weight: float = _option(
        PADDING_WEIGHT,
        f"What a frame of the silence that fills a window counts; default {PADDING_WEIGHT}.",
        least=0.0,
        most=1.0,
        told=True,
    )
    ridge: float = _option(
        RIDGE,
        f"Share of white input that is mixed in; default {RIDGE}. More is more cautious.",
        least=0.0,
        most=1.0,
        told=True,
    )
    varied: bool = _option(
        True,
        "Do not vary the recordings in speed, noise and bandwidth.",
        "--as-recorded",
        inverted=True,
    )
    samples: int | None = _option(
        None, "Calibrate on the first so many recordings or documents only.", least=1
    )
    language: str = _option(
        "en", "What is spoken, for a multilingual decoder; auto: what it hears in each."
    )
    device: str | None = _option(None, "Where the model runs: cpu (the default), cuda, cuda:1, …")
    trials: bool | None = _option(
        None,
        "Cut every pair on trial to learn what each costs: many passes. Default: with your "
        "own data.",
        "--trials/--no-trials",
    )
    refit: bool | None = _option(
        None,
        "Fit each output projection to what its heads keep: three more passes. Default: with "
        "your own data.",
        "--refit/--no-refit",
    )

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
        data, statistics = self.data, self.statistics
        return {
            "calibrate": data if data in (None, SHIPPED) else data_name(data),
            "statistics": None if statistics is None else Path(statistics).name,
            "trials": self.trials,
            "refit": self.refit,
            "padding_weight": self.padding_weight,
            "ridge": self.ridge,
            "as_recorded": not self.varied,
            "samples": self.samples,
            "language": self.language,
        }

    def words(self, *, shown: bool = False) -> list[str]:
        """Return the words that ask for the same; see :class:`surgery.engine.asked.AskedFor`."""
        if not shown:
            return spelled(self)
        data, statistics = self.data, self.statistics
        return spelled(
            self,
            data=data if data in (None, SHIPPED) else given_path(data),
            statistics=None if statistics is None else given_path(statistics),
        )
