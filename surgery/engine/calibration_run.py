"""One calibration: statistics from a file or from real input, and trials on the running model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from surgery.calibration.collect import collect
from surgery.calibration.data import CalibrationData, open_data
from surgery.calibration.moments import Moments
from surgery.calibration.sensitivity import Trials, measure_sensitivities
from surgery.calibration.statistics import CalibratedOn, Statistics
from surgery.calibration.storage import read_statistics, statistics_sha256, write_statistics
from surgery.calibration.witness import Output, Witness, error_of, output_of_speech, witness
from surgery.engine.bounds import check_bound
from surgery.engine.dense import dense_directory
from surgery.engine.loading import check_device, load
from surgery.engine.measure import data_kind, read_processor
from surgery.engine.plan import Plan
from surgery.errors import UsageError
from surgery.events import Progress
from surgery.methods import Pair, SiteDecomposition


class CalibrationRun:
    """What real input tells of the blocks of a plan; entered while the model may be run.

    The model is loaded when it is first needed: a file of statistics may make that never.

    Args:
        plan: The checked plan, with calibration asked for.
        progress: Called with :class:`surgery.events.Event`.

    Raises:
        SurgeryError: Data or saved statistics cannot be read, or do not fit the model or what is
            asked of them. Nothing was computed by then.
    """

    def __init__(self, plan: Plan, progress: Progress) -> None:
        settings = plan.options.calibrate
        if settings is None:
            raise ValueError("the plan asks for no calibration")
        self.plan, self.settings, self.progress = plan, settings, progress
        self.sites = [each.site for each in plan.sites if each.qk or each.vo]
        check_device(settings.device)
        model_type = plan.source.config["model_type"]
        self.data: CalibrationData | None = None
        if settings.data is not None:
            self.data = open_data(Path(settings.data), data_kind(plan.source), settings.samples)
        check_bound(plan.options.rule, self.data, model_type)
        self._saved = self._read_saved()
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        """Open nothing yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the model go."""
        self._opened.close()
        for name in ("directory", "model", "processor", "witness"):
            self.__dict__.pop(name, None)

    @cached_property
    def statistics(self) -> Statistics:
        """Moments of all blocks: saved ones, else taken now, and saved where that was asked."""
        if self._saved is not None:
            return self._saved
        data = self.needed("Statistics are to be taken")
        settings = self.settings
        statistics = Statistics(
            sites=collect(
                self.model,
                self.sites,
                data,
                self.processor,
                padding_weight=settings.padding_weight,
                varied=settings.varied,
                progress=self.progress,
                language=settings.language,
            ),
            source_sha256=self.plan.source.sha256(),
            data=self.on,
            padding_weight=settings.padding_weight,
            varied=self._varied,
        )
        self._save(statistics)
        return statistics

    @property
    def moments(self) -> Mapping[str, Moments]:
        """Moments of every block that is treated, by its path."""
        return self.statistics.select(self.sites)

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the statistics' file, where there is one."""
        return None if self.settings.statistics is None else statistics_sha256(self.statistics)

    @property
    def queries(self) -> float:
        """Positions that were counted, by weight, in the block that saw most."""
        return max(each.queries for each in self.moments.values())

    def trials(self, decompositions: Mapping[str, SiteDecomposition]) -> Trials:
        """Return what cutting every pair on trial did: saved, or measured now."""
        saved = self.statistics
        # Trials of more blocks than these may have compared another output.
        if self._tried(saved) and (self.data is None or saved.output == self._compared):
            return {key: saved.trials[key] for key in self._pairs}
        trials = measure_sensitivities(self.witness, self.sites, decompositions, self.progress)
        self.statistics = replace(
            saved, ridge=self.settings.ridge, output=self.witness.output, trials=trials
        )
        self._save(self.statistics)
        return trials

    @property
    def output(self) -> Output:
        """Which output of the model is compared."""
        return self.statistics.output or self.witness.output

    def error(self, damage: float) -> float:
        """Return a damage as people are told it."""
        return error_of(self.output, damage)

    @cached_property
    def witness(self) -> Witness:
        """A few of the samples, with what the original says of them."""
        data = self.needed("A cut is to be tried on real input")
        return witness(
            self.model, self.sites, data, self.processor, language=self.settings.language
        )

    @cached_property
    def directory(self) -> Path:
        """A directory that transformers can load the original from."""
        return self._opened.enter_context(dense_directory(self.plan.source))

    @cached_property
    def model(self) -> Any:
        """The original, in float32 on the CPU; on an accelerator as it is stored."""
        return load(self.directory, device=self.settings.device)

    @cached_property
    def processor(self) -> Any:
        """Whisper's processor, or a language model's tokenizer."""
        return read_processor(self.directory, data_kind(self.plan.source))

    @cached_property
    def on(self) -> CalibratedOn:
        """What is calibrated on, by content; reads every recording."""
        return self.statistics.data if self.data is None else CalibratedOn.of(self.data)

    def needed(self, why: str) -> CalibrationData:
        """Return the data.

        Raises:
            UsageError: There is none; ``why`` says what it is needed for.
        """
        if self.data is None:
            raise UsageError(f"{why}, and there is no data", hint="give --calibrate DIR|FILE")
        return self.data

    @property
    def _varied(self) -> bool:
        return self.settings.varied and self.data is not None and self.data.kind == "audio"

    @property
    def _pairs(self) -> list[tuple[str, Pair]]:
        """Every pair that is treated, and the block that it is of."""
        pairs: list[tuple[str, Pair]] = []
        for each in self.plan.sites:
            pairs += [(each.site.path, "qk")] if each.qk else []
            pairs += [(each.site.path, "vo")] if each.vo else []
        return pairs

    def _tried(self, statistics: Statistics) -> bool:
        """Whether every pair that is treated was cut on trial at the ridge that is asked for."""
        same = statistics.ridge == self.settings.ridge
        return same and set(self._pairs) <= statistics.trials.keys()

    @property
    def _compared(self) -> Output | None:
        """Which output trials of these blocks compare."""
        heard = data_kind(self.plan.source) == "audio"
        return output_of_speech(self.sites) if heard else self.statistics.output

    def _read_saved(self) -> Statistics | None:
        """Return saved statistics where there are any, checked against what is asked for."""
        settings = self.settings
        if settings.statistics is None:
            return None
        path = Path(settings.statistics)
        if not path.exists() and self.data is not None:
            return None
        statistics = read_statistics(path, source_sha256=self.plan.source.sha256())
        if self.data is None:
            statistics.select(self.sites)
            if not self._tried(statistics):
                self.needed("The file of statistics lacks trials of these blocks at this ridge")
            return statistics
        saved, how = statistics.data, (statistics.padding_weight, statistics.varied)
        asked = (settings.padding_weight, self._varied)
        if (self.on.samples, asked) != (saved.samples, how):
            raise UsageError(
                "The saved statistics were taken on other data, or in another way",
                where=path,
                found=_described(saved.name, *how),
                expected=_described(self.data.name, *asked),
                hint="leave out --calibrate to use them, or name another file",
            )
        # Blocks that the file lacks are looked at afresh, and the file then holds these.
        missing = any(site.path not in statistics.sites for site in self.sites)
        return None if missing else statistics

    def _save(self, statistics: Statistics) -> None:
        if self.settings.statistics is not None:
            write_statistics(Path(self.settings.statistics), statistics)


def _described(name: str, padding_weight: float, varied: bool) -> str:
    how = ", recordings varied" if varied else ""
    return f"{name}, padding weight {padding_weight:g}{how}"
