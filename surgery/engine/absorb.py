"""Absorb-Decompose from a model's name to a finished directory: plan, rewrite, verify, commit."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from surgery.architectures.ranks import SiteRanks
from surgery.checkpoint.directory import DirectorySource
from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction, check_separate
from surgery.engine.block import surgery_block
from surgery.engine.decompose import Spill, decompose_sites, spectra_of
from surgery.engine.measure import check_data, measure
from surgery.engine.options import Options
from surgery.engine.plan import Plan, make_plan
from surgery.engine.ranks import check_ranks, plan_ranks
from surgery.engine.reporting import build_report, versions
from surgery.engine.rewrite import Errors, output_specs, rewrite
from surgery.errors import CheckpointError
from surgery.events import Progress, ignore
from surgery.methods import SiteDecomposition, SiteSpectra
from surgery.report.model import Report
from surgery.report.serialise import from_json, to_json

CHECKPOINTS = Path("checkpoints")


def default_output(source: TensorSource, method: str = "absorb-decompose") -> Path:
    """Return where a result goes when nobody says: ``checkpoints/<name>-<method>``."""
    return CHECKPOINTS / f"{source.slug}-{method}"


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
    options = options or Options()
    with resolve(str(model), revision=revision) as source:
        if not dry_run:
            source.start_hashing()
        plan = make_plan(source, options, str(model))
        target = Path(out) if out is not None else default_output(source)
        if dry_run:
            report = forecast(plan, progress)
            return replace(report, notes=[*report.notes, f"Dry run: {target} was not written."])
        check_separate(source.directory, target)
        finished = _already_done(plan, target) if not force else None
        if finished is not None and data is not None:
            compare = shlex.join(["surgery", "verify", str(model), str(target)])
            note = f"Nothing was measured on {data} this time; {compare} --data does that."
            finished = replace(finished, notes=[note, *finished.notes])
        if finished is not None:
            return finished
        return _run(plan, target, data, force=force, resume=resume, progress=progress)


def forecast(plan: Plan, progress: Progress) -> Report:
    """Decompose and report what the plan would save; nothing is written."""
    check_ranks(plan)
    results, ranks = _decompose(plan, None, progress)
    return _report(plan, results, ranks, {}, {}, None)


def _decompose(
    plan: Plan, spill: Spill | None, progress: Progress
) -> tuple[dict[str, SiteDecomposition], dict[str, SiteRanks]]:
    results: dict[str, SiteDecomposition] = {}
    spectra: dict[str, SiteSpectra] = {}
    for each, result in decompose_sites(plan, spill, progress):
        results[each.site.path] = result
        spectra[each.site.path] = spectra_of(each, result)
    return results, plan_ranks(plan, spectra)


def _report(
    plan: Plan,
    results: Mapping[str, SiteDecomposition],
    ranks: Mapping[str, SiteRanks],
    errors: Errors,
    sha256: Mapping[str, str],
    output: Path | None,
) -> Report:
    return build_report(
        plan,
        ranks,
        decompositions=results,
        errors=errors,
        sha256=sha256,
        output=None if output is None else str(output),
    )


def _provenance(plan: Plan, sha256: Mapping[str, str]) -> dict[str, Any]:
    return {
        "source": plan.source.name,
        "sha256": dict(sha256),
        "versions": versions(),
        "options": plan.options.plain(),
    }


def _already_done(plan: Plan, target: Path) -> Report | None:
    """Return the finished result's report if source and options are the same."""
    try:
        config = json.loads((target / "config.json").read_text(encoding="utf-8"))
        provenance = config["surgery"]["provenance"]
        same = provenance["options"] == plan.options.plain()
        report = from_json((target / "report.json").read_text(encoding="utf-8"))
        DirectorySource(target).close()  # whole: every shard there, none cut short
    except (OSError, ValueError, KeyError, TypeError, CheckpointError):
        return None
    if not same or provenance["sha256"] != plan.source.sha256():
        return None
    note = "Already done: the same source and options are there; nothing was written."
    return replace(report, output=str(target), notes=[note, *report.notes])


def _run(
    plan: Plan,
    target: Path,
    data: str | Path | None,
    *,
    force: bool,
    resume: bool,
    progress: Progress,
) -> Report:
    source = plan.source
    check_ranks(plan)
    check_data(source, data)
    fingerprint = {
        "source": source.identity(),
        "options": plan.options.plain(),
        "versions": versions(),
    }
    clock = _Clock()
    with Transaction(target, fingerprint, resume=resume, force=force) as transaction:
        results, ranks = _decompose(plan, transaction, progress)
        clock.lap("decompose")
        errors = rewrite(plan, transaction, results, ranks, progress)
        source.write_sidecars(transaction.staging)
        clock.lap("write")
        sha256 = source.sha256()
        clock.lap("hash")
        config = source.config
        if plan.options.dtype is not None:
            config["torch_dtype" if "torch_dtype" in config else "dtype"] = plan.options.dtype
        config["surgery"] = surgery_block(plan, ranks, _provenance(plan, sha256))
        transaction.write_text("config.json", json.dumps(config, indent=2) + "\n")
        _verify_staged(plan, transaction.staging, ranks)
        report = _report(plan, results, ranks, errors, sha256, target)
        measured = measure(source, transaction.staging, data, progress)
        report = replace(report, measurements=measured)
        clock.lap("measure")
        # What travels with the checkpoint names it, not the place it was made in; and leaves
        # out the seconds, so that a resumed run writes the same bytes.
        named = replace(
            report,
            output=target.name,
            command=plan.options.command(plan.source.name, target.name),
        )
        _write_views(named, transaction)
        clock.lap("report")
        transaction.commit()
        clock.lap("commit")
    return replace(report, seconds=clock.laps)


def _verify_staged(plan: Plan, staging: Path, ranks: Mapping[str, SiteRanks]) -> None:
    """Open the result as a reader would, and compare every header with the plan."""
    with DirectorySource(staging) as staged:
        found = {name: (info.dtype, info.shape) for name, info in staged.infos.items()}
    for specs in output_specs(plan, ranks).values():
        for spec in specs:
            if found.pop(spec.name, None) != (spec.dtype, spec.shape):
                raise CheckpointError(
                    f"Tensor {spec.name} was not written as planned",
                    where=staging,
                    hint="run again; if it happens again, this is a bug worth reporting",
                )


def _write_views(report: Report, transaction: Transaction) -> None:
    from surgery.report.card import to_card
    from surgery.report.html import to_html

    transaction.write_text("report.json", to_json(report))
    transaction.write_text("report.html", to_html(report))
    transaction.write_text("README.md", to_card(report))


class _Clock:
    """Wall-clock seconds of each stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, name: str) -> None:
        now = perf_counter()
        self.laps[name] = now - self._last
        self._last = now
