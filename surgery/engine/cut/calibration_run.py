"""One calibration: statistics from a file or from real input, and trials on the running model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from surgery.calibration.collect import collect
from surgery.calibration.dealing import fingerprint_in_order
from surgery.calibration.held_out import HeldOut
from surgery.calibration.moments import Moments
from surgery.calibration.spilled import from_tensors, to_tensors
from surgery.calibration.statistics import CalibratedOn, Statistics
from surgery.calibration.storage import statistics_sha256, write_statistics
from surgery.calibration.witness import (
    Output,
    Witness,
    error_of,
    output_of_speech,
    output_of_text,
)
from surgery.engine.cut.decompose import Spill
from surgery.engine.cut.plan import Plan
from surgery.engine.cut.saved_statistics import saved_statistics
from surgery.engine.measure.bounds import check_bound
from surgery.engine.measure.input import data_kind
from surgery.engine.measure.input_run import InputRun
from surgery.errors import note_kept
from surgery.events import Progress
from surgery.methods import Bound, Rule, SeamName, UpTo

SPILLED = "statistics"
"""Under which key a run keeps its moments for itself, to be resumed."""


class CalibrationRun(InputRun):
    """What real input tells of the blocks of a plan; entered while the model may be run.

    The model is loaded when it is first needed: a file of statistics may make that never.

    Args:
        plan: The checked plan, with calibration asked for.
        progress: Called with :class:`surgery.events.Event`.

    Attributes:
        spill: Where moments are kept for a resumed run, if anywhere.

    Raises:
        SurgeryError: Data or saved statistics cannot be read, or do not fit the model or what is
            asked of them. Nothing was computed by then.
    """

    def __init__(self, plan: Plan, progress: Progress) -> None:
        settings = plan.options.calibrate
        if settings is None:
            raise ValueError("the plan asks for no calibration")
        self.plan, self.settings = plan, settings
        self.sites = [each.site for each in plan.sites if each.treated]
        super().__init__(plan.source, settings.data, settings.samples, settings.device, progress)
        tried = None if self.data is None else self.dealt.trial
        check_bound(plan.options.rule, tried, plan.source)
        known = (lambda: self.on), (lambda: self._fitted)
        self._saved = saved_statistics(plan, settings, self.sites, self.data, *known)
        if self.data is None:
            self._check_saved(plan.options.rule)
        self.spill: Spill | None = None
        self._written = False

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Let the model go, and say which statistics an error leaves."""
        super().__exit__(kind, error, trace)
        if error is not None and self._written:
            tried = len(self.statistics.trials)
            trials = f" with trials of {tried} pair{'' if tried == 1 else 's'}" if tried else ""
            note_kept(error, f"statistics{trials}", Path(str(self.settings.statistics)).resolve())

    _LATER = (*InputRun._LATER, "witness", "held_out")

    @cached_property
    def statistics(self) -> Statistics:
        """Moments of all blocks: saved ones, else taken now, and saved where that was asked."""
        if self._saved is not None:
            return self._saved
        self.needed("Statistics are to be taken")
        settings = self.settings
        statistics = Statistics(
            sites=self._collected(),
            source_sha256=self.plan.source.sha256(),
            data=self.on,
            padding_weight=settings.padding_weight,
            varied=settings.varied and self.dealt.fit.kind == "audio",
            output=self.compared,
            fitted=self._fitted,
        )
        self.keep(statistics)
        return statistics

    def _collected(self) -> dict[str, Moments]:
        """Return the moments of all blocks, from where an interrupted run left them if it did."""
        if self.spill is not None and self.spill.done(SPILLED):
            return from_tensors(self.spill.unspill(SPILLED))
        settings = self.settings
        moments = collect(
            self.model,
            self.sites,
            self.dealt.fit,
            self.processor,
            padding_weight=settings.padding_weight,
            varied=settings.varied,
            progress=self.progress,
            language=settings.language,
        )
        if self.spill is not None:
            self.spill.spill(SPILLED, to_tensors(moments))
        return moments

    @property
    def is_saved(self) -> bool:
        """Whether the statistics are there already."""
        return self._saved is not None

    @property
    def is_tried(self) -> bool:
        """Whether what trials tell is there already."""
        return self._saved is not None and self.tried(self._saved)

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

    @property
    def output(self) -> Output:
        """Which output of the model is compared."""
        # Saved statistics may be of more blocks, whose trials compared another output.
        return (self.statistics.output if self.settings.tries else None) or self.compared

    def error(self, damage: float) -> float:
        """Return a damage as people are told it."""
        return error_of(self.output, damage)

    @property
    def unseen(self) -> bool:
        """Whether the rows that cuts are tried on are others than those that were fitted to."""
        return self.statistics.fitted is not None and self.dealt.trial is not self.dealt.fit

    @cached_property
    def witness(self) -> Witness:
        """A few of the rows for trials, with what the original says of them."""
        return self.witness_of(self.sites, self.settings.language)

    @cached_property
    def held_out(self) -> HeldOut | None:
        """The rows that nothing was fitted to; ``None`` where there are none."""
        if self.data is None or self.statistics.fitted is None or self.dealt.held_out is None:
            return None
        return HeldOut(
            self.model,
            self.sites,
            self.dealt.held_out,
            self.processor,
            language=self.settings.language,
        )

    @cached_property
    def on(self) -> CalibratedOn:
        """What is calibrated on, by content; reads every recording."""
        return self.statistics.data if self.data is None else super().on

    @cached_property
    def _fitted(self) -> str:
        return fingerprint_in_order(self.dealt.fit)

    def _check_saved(self, rule: Rule | None) -> None:
        """Refuse what saved statistics alone cannot tell."""
        why = "The file of statistics lacks trials of these blocks at this ridge"
        if self.settings.tries and not self.is_tried:
            self.needed(why, hint="give --calibrate DIR|FILE, or do without: --no-trials")
        if isinstance(rule, Bound | UpTo) and not self.settings.tries:
            self.needed("A bound is to be kept without trials")

    @property
    def pairs(self) -> list[tuple[str, SeamName]]:
        """Every pair that is treated, and the block that it is of."""
        return [(each.site.path, seam) for each in self.plan.sites for seam in each.treated]

    def tried(self, statistics: Statistics) -> bool:
        """Whether every pair that is treated was cut on trial at the ridge that is asked for."""
        same = statistics.ridge == self.settings.ridge
        return same and set(self.pairs) <= statistics.trials.keys()

    @property
    def compared(self) -> Output:
        """Which output shows what cutting these blocks does."""
        if data_kind(self.plan.source) == "audio":
            return output_of_speech(self.sites)
        saved = None if self._saved is None else self._saved.output
        return saved or output_of_text(self.model)

    def keep(self, statistics: Statistics) -> None:
        """Take these statistics from now on, and save them where that was asked."""
        self.statistics = statistics
        if self.settings.statistics is not None:
            write_statistics(Path(self.settings.statistics), statistics)
            self._written = True
