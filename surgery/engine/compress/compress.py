"""``compress`` from a model's name to a finished directory that its stock class loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.writer import TensorSpec
from surgery.engine.compress.fit import Fitted, fit_blocks, rewritten
from surgery.engine.compress.options import CompressOptions
from surgery.engine.compress.plan import CompressPlan, make_plan
from surgery.engine.compress.price import price_of
from surgery.engine.compress.reporting import build_report
from surgery.engine.measure.input_run import InputRun
from surgery.engine.measure.leakage import check_leakage
from surgery.engine.result import Clock, default_output, produce
from surgery.events import Progress, ignore
from surgery.report.model.calibration import Calibration
from surgery.report.model.report import Report
from surgery.runtime.manifest import COMPRESS
from surgery.stored.block import Operation
from surgery.stored.stream import stream


def compress(
    model: str | Path,
    out: str | Path | None = None,
    *,
    options: CompressOptions | None = None,
    data: str | Path | None = None,
    allow_leakage: bool = False,
    force: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    revision: str | None = None,
    progress: Progress = ignore,
) -> Report:
    """Remove neurons of feed-forward blocks, and fit what is behind them to those that stay.

    The result is a stock checkpoint of the same class, with smaller widths in ``config.json``.

    Args:
        model: Directory, ``.pt``, short name, hub id, or the embedded ``whisper-micro``.
        out: Result directory; ``checkpoints/<name>-compress`` by default.
        options: How much goes, and how.
        data: Audio folder or text file to measure the price on, before and after.
        allow_leakage: Measure on data that was calibrated on, and say so in the report, instead
            of refusing it.
        force: Replace a result that is in the way.
        resume: Go on from an interrupted run with the same source and options.
        dry_run: Count and report, run and write nothing.
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
        plan = make_plan(source, options or CompressOptions(), str(model))
        surgery = Compress(plan, progress)
        if data is not None or not dry_run:
            surgery.check_leakage(data, allow=allow_leakage)
        target = Path(out) if out is not None else default_output(source, COMPRESS)
        if dry_run:
            report = surgery.report({}, None)
            return replace(report, notes=[*report.notes, f"Dry run: {target} was not written."])
        return produce(
            surgery,
            target,
            method=COMPRESS,
            asked=plan.asked,
            data=data,
            force=force,
            resume=resume,
            progress=progress,
        )


class Compress:
    """What :func:`produce` needs to write and report a narrower model.

    Args:
        plan: The checked plan.
        progress: Called with :class:`surgery.events.Event`.

    Raises:
        SurgeryError: Calibration data cannot be read, or does not fit.
    """

    def __init__(self, plan: CompressPlan, progress: Progress) -> None:
        self.plan, self._progress = plan, progress
        options = plan.options
        self._run = InputRun(plan.source, options.calibrate, options.samples, options.device)
        self._leaked = 0
        self._fitted: Fitted | None = None
        self._calibration: Calibration | None = None

    @property
    def source(self) -> TensorSource:
        """The dense checkpoint."""
        return self.plan.source

    @property
    def before(self) -> tuple[Operation, ...]:
        """What was done to it: blocks made narrower before, if anything."""
        return self.plan.stored.operations

    @property
    def options(self) -> CompressOptions:
        """What was asked for."""
        return self.plan.options

    def check_leakage(self, data: str | Path | None, *, allow: bool) -> None:
        """Refuse to measure on samples that are calibrated on, or count them for the report.

        Raises:
            UsageError: There are such samples, and they are not allowed.
            SurgeryError: Data cannot be read.
        """
        on = self._run
        self._leaked = check_leakage(self.source, self.plan.asked, data, lambda: on.on, allow=allow)

    def write(self, transaction: Transaction, progress: Progress, clock: Clock) -> None:
        """Fit every block, price the result, then write every shard."""
        with self._run as run:
            fitted = fit_blocks(self.plan, run, transaction, progress)
            clock.lap("calibrate and fit")
            self._calibration = replace(
                price_of(self.plan, run, fitted, progress), leaked=self._leaked
            )
            clock.lap("price")
        self._fitted = fitted
        blocks = {name: site.path for site in self.plan.sites for name in site.tensors()}
        compute = rewritten(self.plan, fitted)
        stream(self.source, transaction, self.plan.specs(), blocks, compute, progress)

    def specs(self) -> Mapping[str, list[TensorSpec]]:
        """Return every tensor of the result, by shard."""
        return self.plan.specs()

    def provenance(self) -> dict[str, Any]:
        """Return what was calibrated on, so that nobody measures on the same unawares."""
        on = self._run.on
        return {"calibration": {"name": on.name, "kind": on.kind, "samples": list(on.samples)}}

    def sites(self) -> dict[str, Any]:
        """Return nothing: config.json says all that a runtime must know."""
        return {}

    def configure(self, config: dict[str, Any]) -> None:
        """Put the widths of the result into its configuration."""
        for scope, width in self.plan.widths.items():
            config[self.plan.keys[scope]] = width

    def report(self, sha256: Mapping[str, str], output: str | None) -> Report:
        """Return the report of what was found, and of what was written if anything was."""
        return build_report(
            self.plan,
            {} if self._fitted is None else self._fitted.errors,
            calibration=self._calibration,
            sha256=sha256,
            output=output,
        )
