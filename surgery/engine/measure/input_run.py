"""A model and real input for it: opened, dealt in three, and loaded when it is first needed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from surgery.calibration.data import CalibrationData, open_data
from surgery.calibration.dealing import Dealt, deal
from surgery.calibration.statistics import CalibratedOn
from surgery.calibration.witness import Scoped, Witness, inputs_of
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.validate import check_finite
from surgery.choices.common import SHIPPED
from surgery.engine.measure.heads import check_hears
from surgery.engine.measure.input import data_kind, processor_of
from surgery.engine.measure.shipped import shipped_data
from surgery.errors import UsageError
from surgery.evaluation.unused import warn_of_unused
from surgery.events import Event, Progress, ignore
from surgery.stored.dense import dense_directory
from surgery.stored.loading import check_device, load

LOADING, READING = "Loading the model", "Reading what is calibrated on"
HEARING = "Running the original on rows for trials"
"""Stages of a run."""


class InputRun:
    """What a model is calibrated on, entered while it may be run.

    Args:
        source: The model.
        data: Recordings or text, :data:`surgery.choices.common.SHIPPED`, or ``None`` for none.
        samples: Take only the first so many.
        device: Where the model runs; the CPU by default.
        progress: Called with :class:`surgery.events.Event`.

    Attributes:
        data: The data; ``None`` where there is none.

    Raises:
        SurgeryError: Data cannot be read, or does not fit the model.
    """

    _LATER: ClassVar[tuple[str, ...]] = ("directory", "model", "processor")
    """What is let go with the model."""

    def __init__(
        self,
        source: TensorSource,
        data: str | None,
        samples: int | None,
        device: str | None,
        progress: Progress = ignore,
    ) -> None:
        self.source, self._device, self.progress = source, device, progress
        check_device(device)
        if data_kind(source) == "audio":
            check_hears(source, "--calibrate")
        self.data: CalibrationData | None = None
        self._opened = ExitStack()
        if data == SHIPPED:
            self.data = self._opened.enter_context(shipped_data(source, samples))
        elif data is not None:
            self.data = open_data(Path(data), data_kind(source), samples)
            warn_of_unused(Path(data), self.data.kind)

    def __enter__(self) -> Self:
        """Open nothing yet."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Let the model go."""
        self._opened.close()
        for name in self._LATER:
            self.__dict__.pop(name, None)

    @cached_property
    def dealt(self) -> Dealt:
        """The data in its parts: what is fitted to, tried on, and held out."""
        return deal(self.needed("A cut is to be tried on real input"))

    @cached_property
    def directory(self) -> Path:
        """A directory that transformers can load the original from."""
        return self._opened.enter_context(dense_directory(self.source))

    @cached_property
    def model(self) -> Any:
        """The original, in float32 on the CPU; on an accelerator as it is stored.

        Raises:
            CheckpointError: A weight is NaN or infinite, which all that is computed would be.
        """
        total = len(self.source.infos)
        for number, name in enumerate(self.source.infos):
            self.progress(Event(LOADING, number, total, name))
            check_finite(name, self.source.tensor(name))
            self.source.release(name)
        model = load(self.directory, device=self._device)
        self.progress(Event(LOADING, total, total))
        return model

    def share(self, other: InputRun) -> None:
        """Run the model that another run has loaded, while that is entered."""
        self.directory, self.model, self.processor = other.directory, other.model, other.processor

    @cached_property
    def processor(self) -> Any:
        """Whisper's processor, or a language model's tokenizer."""
        return processor_of(self.source, self.directory)

    def witness_of(self, sites: Sequence[Scoped], language: str) -> Witness:
        """Run the original, as the model still is, on a few of the rows for trials.

        Args:
            sites: The blocks that will be cut: they decide which output is compared.
            language: What is spoken, for a multilingual Whisper's decoder.
        """
        model, rows = self.model, self.dealt.trial
        self.progress(Event(HEARING, 0, 1))
        found = Witness(inputs_of(model, sites, rows, self.processor, language=language))
        self.progress(Event(HEARING, 1, 1))
        return found

    @cached_property
    def on(self) -> CalibratedOn:
        """What is calibrated on, by content; reads every recording."""
        data = self.needed("It is to be said what was calibrated on")
        self.progress(Event(READING, 0, 1, data.name))
        found = CalibratedOn.of(data)
        self.progress(Event(READING, 1, 1))
        return found

    def needed(self, why: str, hint: str = "give --calibrate DIR|FILE") -> CalibrationData:
        """Return the data.

        Raises:
            UsageError: There is none; ``why`` says what it is needed for.
        """
        if self.data is None:
            raise UsageError(f"{why}, and there is no data", hint=hint)
        return self.data
