"""Absorb-Decompose from a model's name to a finished directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from surgery.architectures.ranks import SiteRanks
from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.writer import TensorSpec
from surgery.engine.block import ABSORB_DECOMPOSE, Operation, site_entry
from surgery.engine.decompose import Spill, decompose_sites, spectra_of
from surgery.engine.options import Options
from surgery.engine.plan import Plan, make_plan
from surgery.engine.ranks import check_ranks, plan_ranks
from surgery.engine.reporting import build_report
from surgery.engine.result import Clock, default_output, produce
from surgery.engine.rewrite import Errors, output_specs, rewrite
from surgery.events import Progress, ignore
from surgery.methods import SiteDecomposition, SiteSpectra
from surgery.report.model import Report


def absorb_decompose(
    model: str | Path,
    out: str | Path | None = None,
    *,
    options: Options | None = None,
    data: str | Path | None = None,
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
        target = Path(out) if out is not None else default_output(source, ABSORB_DECOMPOSE)
        if dry_run:
            report = forecast(plan, progress)
            return replace(report, notes=[*report.notes, f"Dry run: {target} was not written."])
        return produce(
            AbsorbDecompose(plan),
            target,
            method=ABSORB_DECOMPOSE,
            asked=plan.asked,
            data=data,
            force=force,
            resume=resume,
            progress=progress,
        )


def forecast(plan: Plan, progress: Progress) -> Report:
    """Decompose and report what the plan would save; nothing is written."""
    surgery = AbsorbDecompose(plan)
    surgery.decompose(None, progress)
    return surgery.report({}, None)


class AbsorbDecompose:
    """Absorb-Decompose of one checkpoint: what :func:`produce` needs to write and report it.

    Args:
        plan: The checked plan.
    """

    before: tuple[Operation, ...] = ()

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._results: dict[str, SiteDecomposition] = {}
        self._ranks: dict[str, SiteRanks] = {}
        self._errors: Errors = {}

    @property
    def source(self) -> TensorSource:
        """The dense checkpoint."""
        return self.plan.source

    @property
    def options(self) -> Options:
        """Where to cut and how, resolved."""
        return self.plan.options

    def decompose(self, spill: Spill | None, progress: Progress) -> None:
        """Find every block's spectrum and transforms, and the ranks that the rule leaves."""
        spectra: dict[str, SiteSpectra] = {}
        for each, result in decompose_sites(self.plan, spill, progress):
            self._results[each.site.path] = result
            spectra[each.site.path] = spectra_of(each, result)
        self._ranks = plan_ranks(self.plan, spectra)

    def write(self, transaction: Transaction, progress: Progress, clock: Clock) -> None:
        """Decompose every block, then write every shard."""
        self.decompose(transaction, progress)
        clock.lap("decompose")
        self._errors = rewrite(self.plan, transaction, self._results, self._ranks, progress)

    def specs(self) -> dict[str, list[TensorSpec]]:
        """Return every tensor of the result, by shard."""
        return output_specs(self.plan, self._ranks)

    def sites(self) -> dict[str, Any]:
        """Return heads and ranks of every block in scope."""
        return {
            each.site.path: site_entry(each.site, self._ranks[each.site.path])
            for each in self.plan.sites
        }

    def report(self, sha256: Mapping[str, str], output: str | None) -> Report:
        """Return the report of what was found, and of what was written if anything was."""
        return build_report(
            self.plan,
            self._ranks,
            decompositions=self._results,
            errors=self._errors,
            sha256=sha256,
            output=output,
        )
