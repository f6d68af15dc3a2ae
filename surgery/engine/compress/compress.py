"""``compress`` from a model's name to a finished directory with narrower feed-forward blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.writer import TensorSpec
from surgery.choices.where import given_by
from surgery.engine.compress.attention import AttentionPart
from surgery.engine.compress.candidates import budget_report
from surgery.engine.compress.cutting import Cutting, specs_of
from surgery.engine.compress.fit import Fitted, rewritten
from surgery.engine.compress.layers import choose_layers, layers_report
from surgery.engine.compress.options import CompressOptions
from surgery.engine.compress.plan import CompressPlan, make_plan
from surgery.engine.compress.price import compared, price_of
from surgery.engine.compress.reporting import build_report
from surgery.engine.compress.within import choose_within
from surgery.engine.measure.bounds import WITHIN, check_bound
from surgery.engine.measure.input_run import InputRun
from surgery.engine.measure.leakage import check_leakage
from surgery.engine.result import Clock, default_output, planned, produce
from surgery.errors import UsageError
from surgery.events import Progress, ignore
from surgery.report.model.budget import BudgetReport
from surgery.report.model.calibration import Calibration, SearchStep
from surgery.report.model.layers import LayersReport
from surgery.report.model.report import Report
from surgery.runtime.manifest import ABSORB_DECOMPOSE, COMPRESS
from surgery.stored.block import Operation
from surgery.stored.shallower import LAYERS, ShallowerSource
from surgery.stored.stream import Computed, stream

HEADS = (
    "None of the heads that follow the audio is left (alignment_heads): words cannot be timed "
    "until others are named in generation_config.json."
)


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
    """Remove layers, and neurons of feed-forward blocks, and fit what is behind to what stays.

    With one width a tower the result is a stock checkpoint of the same class, with smaller numbers
    in ``config.json``.

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
        options = options or CompressOptions()
        if dry_run and options.bound is not None:
            raise UsageError(
                "A dry run runs nothing, and what keeps within a bound is found by running",
                found=f"--dry-run --within {options.within}",
                hint="leave --dry-run out, or count one budget: --remove 10% --dry-run",
            )
        plan = make_plan(source, options, str(model))
        surgery = Compress(plan, progress)
        if data is not None or not dry_run:
            surgery.check_leakage(data, allow=allow_leakage)
        target = Path(out) if out is not None else default_output(source, COMPRESS)
        if dry_run:
            return planned(surgery.report({}, None), surgery, plan.asked, target, data)
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
        self._attention = AttentionPart(plan, progress) if options.attention else None
        asked = options.calibrate, options.samples, options.device
        self._run = (
            InputRun(self.source, *asked, progress)
            if self._attention is None
            else self._attention.run
        )
        if options.bound is not None:
            check_bound(options.bound, self._run.dealt.trial, self.source, WITHIN)
        self._leaked = 0
        self._fitted: Fitted | None = None
        self._calibration: Calibration | None = None
        self._layers: LayersReport | None = None
        self._budget: BudgetReport | None = None
        self._notes: list[str] = []
        if plan.gone:
            self._layers = layers_report(plan, plan.gone if plan.options.drop_layers else ())

    @property
    def source(self) -> TensorSource:
        """The dense checkpoint."""
        return self.plan.whole.source

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
        """Choose layers, fit every block, price the result, then write every shard."""
        attention = self._attention
        with self._run as run:
            if self.plan.to_choose:
                gone, self._layers = choose_layers(self.plan, run, transaction, progress)
                self.plan = make_plan(self.source, self.plan.options, self.plan.asked, gone=gone)
                clock.lap("choose layers")
            cutting = Cutting(self.plan, run, attention, transaction, progress)
            attention = self._attention = cutting.attention
            bound, steps = self.options.bound, list[SearchStep]()
            if bound is not None:
                steps = choose_within(bound, cutting)
            else:
                cutting.choose(self.plan)
            before, self.plan = self.plan, replace(cutting.plan, options=self.options)
            if cutting.budget is not None:
                output = compared(self.plan, run)
                self._budget = budget_report(cutting.budget, cutting.found, output)
                if len(self.plan.gone) > len(before.gone):
                    layers = cutting.found[0].layers
                    self._layers = layers_report(
                        self.plan, self.plan.gone, "budget", layers, output
                    )
            clock.lap("choose")
            fitted = cutting.fit()
            clock.lap("calibrate and fit")
            self._calibration = replace(
                price_of(self.plan, run, fitted, cutting.cut, cutting.expected, progress),
                leaked=self._leaked,
                bound=None if bound is None else next(iter(given_by(bound))),
                search=steps,
            )
            clock.lap("price on held-out rows")
        self._fitted = fitted
        blocks = {name: site.path for site in self.plan.sites for name in site.tensors()}
        heads = {} if attention is None else attention.plan.blocks()
        narrow, of_heads = rewritten(self.plan, fitted), {*heads.values()}

        def compute(path: str) -> Computed:
            if attention is not None and path in of_heads:
                return attention.compute(path)
            return narrow(path)

        stream(self.plan.source, transaction, self.specs(), blocks | heads, compute, progress)
        if attention is not None:
            attention.written(transaction)

    def specs(self) -> Mapping[str, list[TensorSpec]]:
        """Return every tensor of the result, by shard."""
        return specs_of(self.plan, self._attention)

    def provenance(self) -> dict[str, Any]:
        """Return what was calibrated on, so that nobody measures on the same unawares.

        And which layers left, as far as that is known: those to be chosen only once they were.
        """
        on = self._run.on
        told: dict[str, Any] = {
            "calibration": {"name": on.name, "kind": on.kind, "samples": list(on.samples)}
        }
        if self._layers is not None and any(tower.gone for tower in self._layers.towers):
            told[LAYERS] = {tower.scope: tower.gone for tower in self._layers.towers if tower.gone}
        return told

    def sites(self) -> dict[str, Any]:
        """Return the widths of blocks that ``config.json`` does not speak for."""
        return self.plan.told()

    def write_sidecars(self, directory: Path) -> None:
        """Write the files beside the weights; what speaks of layers by number follows."""
        self.plan.source.write_sidecars(directory)
        if isinstance(self.plan.source, ShallowerSource) and self.plan.source.lost:
            self._notes.append(HEADS)

    def further(self) -> dict[str, dict[str, Any]]:
        """Return what the runtime needs to know of attention, as an operation of its own."""
        attention = self._attention
        if attention is None:
            return {}
        return {ABSORB_DECOMPOSE: attention.plan.entries(attention.ranks)}

    def configure(self, config: dict[str, Any]) -> None:
        """Put the layers of the result, and widths that towers have, into its configuration."""
        before, after = self.source.config, self.plan.source.config
        for key in before.keys() | after.keys():
            if key not in after:
                del config[key]
            elif before.get(key) != after[key]:
                config[key] = after[key]
        for scope, width in self.plan.stock.items():
            config[self.plan.keys[scope]] = width

    def report(self, sha256: Mapping[str, str], output: str | None) -> Report:
        """Return the report of what was found, and of what was written if anything was."""
        attention = self._attention
        cut = None if attention is None or self._fitted is None else attention
        report = build_report(
            self.plan,
            {} if self._fitted is None else self._fitted.errors,
            specs=self.specs() if cut is not None else self.plan.specs(),
            attention=None if cut is None else cut.report(sha256, output),
            ranks={} if cut is None else cut.ranks,
            layers=self._layers,
            budget=self._budget,
            calibration=self._calibration,
            sha256=sha256,
            output=output,
        )
        return replace(report, notes=[*report.notes, *self._notes])
