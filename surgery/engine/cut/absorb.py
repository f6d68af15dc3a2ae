"""Absorb-Decompose from a model's name to a finished directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.writer import TensorSpec
from surgery.engine.cut.decompose import Spill, decompose_sites, spectra_of
from surgery.engine.cut.options import Options
from surgery.engine.cut.plan import Plan, make_plan
from surgery.engine.cut.ranks import check_ranks, plan_ranks, site_ranks
from surgery.engine.cut.reporting import build_report
from surgery.engine.cut.rewrite import Errors, output_specs, rewrite
from surgery.engine.result import Clock, default_output, planned, produce
from surgery.events import Event, Progress, ignore
from surgery.methods import SiteDecomposition, SiteSpectra
from surgery.report.model.calibration import Calibration
from surgery.report.model.report import Report
from surgery.runtime.heads import SiteRanks
from surgery.runtime.manifest import ABSORB_DECOMPOSE
from surgery.stored.block import Operation

if TYPE_CHECKING:
    from surgery.calibration.cut import OutputChange
    from surgery.engine.cut.calibration_run import CalibrationRun


NOT_REFITTED = "Outputs were not refitted to what is kept: that takes the data (--calibrate)."


def absorb_decompose(
    model: str | Path,
    out: str | Path | None = None,
    *,
    options: Options | None = None,
    data: str | Path | None = None,
    allow_leakage: bool = False,
    force: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    revision: str | None = None,
    progress: Progress = ignore,
) -> Report:
    """Restructure and prune the attention of a checkpoint, and report what that cost.

    Args:
        model: Directory, ``.pt``, short name, hub id, or the embedded ``whisper-micro``.
        out: Result directory; ``checkpoints/<name>-absorb-decompose`` by default.
        options: Where to cut and how; by default the model's documented preset.
        data: Audio folder or text file to measure the price on, before and after. The
            embedded model brings its own.
        allow_leakage: Measure on data that was calibrated on, and say so in the report, instead
            of refusing it.
        force: Replace a result that is in the way.
        resume: Go on from an interrupted run with the same source and options.
        dry_run: Decompose and report, write nothing.
        revision: Hub revision.
        progress: Called with :class:`surgery.events.Event`.

    Returns:
        The report; ``report.output`` is ``None`` for a dry run. Where the same result is there
        already, its own report with a note that says so.

    Raises:
        SurgeryError: What is wrong, where, and what to do; the target is untouched.
    """
    with resolve(str(model), revision=revision) as source:
        if not dry_run:
            source.start_hashing()
        plan = make_plan(source, options or Options(), str(model))
        check_ranks(plan)
        surgery = AbsorbDecompose(plan, progress)
        if data is not None or not dry_run:
            surgery.check_leakage(data, allow=allow_leakage)
        target = Path(out) if out is not None else default_output(source, ABSORB_DECOMPOSE)
        if dry_run:
            return planned(surgery.forecast(progress), surgery, plan.asked, target, data)
        return produce(
            surgery,
            target,
            method=ABSORB_DECOMPOSE,
            asked=plan.asked,
            data=data,
            force=force,
            resume=resume,
            progress=progress,
        )


class AbsorbDecompose:
    """Absorb-Decompose of one checkpoint: what :func:`produce` needs to write and report it.

    Args:
        plan: The checked plan.
        progress: Called with :class:`surgery.events.Event` while real input is run on.
        curve: Try the whole price curve on the running model, where the run is calibrated.

    Raises:
        SurgeryError: Calibration data or statistics cannot be read, or do not fit.
    """

    def __init__(self, plan: Plan, progress: Progress, *, curve: bool = False) -> None:
        self.plan = plan
        self._run: CalibrationRun | None = None
        if plan.options.calibrate is not None:
            # Late, here and below: without calibration no model is run, and none of what runs
            # them is imported.
            from surgery.engine.cut.calibration_run import CalibrationRun

            self._run = CalibrationRun(plan, progress)
        self._curve, self._leaked = curve, 0
        self._takes: str | None = None
        self._calibration: Calibration | None = None
        self._results: Mapping[str, SiteDecomposition] = {}
        self._ranks: Mapping[str, SiteRanks] = {}
        self._errors: Errors = {}
        self._refitted: Mapping[str, OutputChange] = {}

    @property
    def source(self) -> TensorSource:
        """The dense checkpoint."""
        return self.plan.source

    @property
    def before(self) -> tuple[Operation, ...]:
        """What was done to it: blocks made narrower, if anything."""
        return self.plan.before

    @property
    def options(self) -> Options:
        """Where to cut and how, resolved."""
        return self.plan.options

    def check_leakage(self, data: str | Path | None, *, allow: bool) -> None:
        """Refuse to measure on samples that are calibrated on, or count them for the report.

        Raises:
            UsageError: There are such samples, and they are not allowed.
            SurgeryError: Data cannot be read.
        """
        run = self._run
        if run is not None:
            from surgery.engine.measure.leakage import check_leakage

            self._leaked = check_leakage(
                self.source, self.plan.asked, data, lambda: run.on, allow=allow
            )

    def forecast(self, progress: Progress) -> Report:
        """Decompose and report what the plan would save; nothing is written."""
        self.decompose(None, progress)
        report = self.report({}, None)
        if self._takes is None:
            return report
        note = f"Before it began, calibrating and pricing was estimated to take {self._takes}."
        return replace(report, notes=[*report.notes, note])

    def decompose(self, spill: Spill | None, progress: Progress) -> None:
        """Find every block's spectrum and transforms, and the ranks that the rule leaves."""
        if self._run is None:
            spectra: dict[str, SiteSpectra] = {}
            results: dict[str, SiteDecomposition] = {}
            for each, result in decompose_sites(self.plan, spill, progress):
                results[each.site.path] = result
                spectra[each.site.path] = spectra_of(each, result)
            self._results = results
            self._ranks = site_ranks(self.plan, plan_ranks(self.plan, spectra), results)
            return
        from surgery.engine.cut.decide import decide
        from surgery.engine.cut.estimate import estimate_text, estimated_seconds

        self._run.spill = spill
        if self._run.data is not None:
            self._takes = estimate_text(estimated_seconds(self._run))
            progress(Event(f"To calibrate and price takes {self._takes}", 1, 1))
        with self._run as run:
            found = decide(self.plan, run, spill, progress, curve=self._curve)
        self._results, self._ranks = found.decompositions, found.ranks
        self._refitted = found.refitted
        self._calibration = found.told

    def write(self, transaction: Transaction, progress: Progress, clock: Clock) -> None:
        """Decompose every block, then write every shard."""
        self.decompose(transaction, progress)
        clock.lap("decompose" if self._calibration is None else "calibrate and decompose")
        self._errors = rewrite(
            self.plan, transaction, self._results, self._ranks, self._refitted, progress
        )

    def specs(self) -> dict[str, list[TensorSpec]]:
        """Return every tensor of the result, by shard."""
        return output_specs(self.plan, self._ranks)

    def provenance(self) -> dict[str, Any]:
        """Return what was calibrated on, so that nobody measures on the same unawares."""
        if self._run is None:
            return {}
        on = self._run.on
        return {"calibration": {"name": on.name, "kind": on.kind, "samples": list(on.samples)}}

    def sites(self) -> dict[str, Any]:
        """Return heads and ranks of every block in scope."""
        return self.plan.entries(self._ranks)

    def report(self, sha256: Mapping[str, str], output: str | None) -> Report:
        """Return the report of what was found, and of what was written if anything was."""
        report = build_report(
            self.plan,
            self._ranks,
            decompositions=self._results,
            errors=self._errors,
            sha256=sha256,
            output=output,
        )
        if self._calibration is None:
            return report
        told = replace(self._calibration, leaked=self._leaked)
        notes = [*report.notes]
        if self._run is not None and self._run.data is None and self._run.settings.refit is None:
            notes.append(NOT_REFITTED)
        return replace(report, calibration=told, notes=notes)
