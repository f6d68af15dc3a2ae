"""From a surgery to a finished directory: write, verify, measure, report, commit."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, runtime_checkable

from surgery.carried.remote_code import FILE, place_code
from surgery.checkpoint.directory import DirectorySource, read_json
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction, check_separate
from surgery.checkpoint.writer import TensorSpec
from surgery.engine.asked import AskedFor, command_text
from surgery.engine.measure.input import check_data
from surgery.engine.measure.measure import measure
from surgery.engine.measure.words import check_measured_words
from surgery.errors import CheckpointError, SurgeryError, UsageError
from surgery.events import Event, Progress
from surgery.report.model.report import Report
from surgery.report.serialise import from_json, to_json
from surgery.stored.block import Operation, read_operations, surgery_block
from surgery.stored.stored import check_loads, output_dtype, read_stored
from surgery.version import versions

CHECKPOINTS = Path("checkpoints")


class Clock:
    """Wall-clock seconds of each stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, name: str) -> None:
        """Note the seconds since the last lap under ``name``."""
        now = perf_counter()
        self.laps[name] = now - self._last
        self._last = now


class Surgery(Protocol):
    """One method about to be applied to one checked checkpoint."""

    @property
    def source(self) -> TensorSource:
        """The checkpoint it operates on."""

    @property
    def options(self) -> AskedFor:
        """What was asked for."""

    @property
    def before(self) -> tuple[Operation, ...]:
        """What was done to the checkpoint before."""

    def write(self, transaction: Transaction, progress: Progress, clock: Clock) -> None:
        """Write every shard of the result into the transaction."""

    def provenance(self) -> dict[str, Any]:
        """Return what else the result came from, beside source and versions."""

    def specs(self) -> Mapping[str, list[TensorSpec]]:
        """Return name, dtype and shape of every tensor of the result, by shard, once written."""

    def sites(self) -> dict[str, Any]:
        """Return what the runtime needs to know, by module path, once written."""

    def report(self, sha256: Mapping[str, str], output: str | None) -> Report:
        """Return the report of what was written."""


@runtime_checkable
class Configures(Protocol):
    """A surgery whose result has another configuration, and maybe other files beside it."""

    def write_sidecars(self, directory: Path) -> None:
        """Write the files beside the weights."""

    def configure(self, config: dict[str, Any]) -> None:
        """Change the configuration of the result."""


@runtime_checkable
class Composes(Protocol):
    """A surgery that is more than one operation."""

    def further(self) -> dict[str, dict[str, Any]]:
        """Return by method what the runtime needs to know of the operations behind the first."""


def default_output(source: TensorSource, method: str) -> Path:
    """Return where a result goes when nobody says: ``checkpoints/<name>-<method>``."""
    return CHECKPOINTS / f"{source.slug}-{method}"


def beside(source: TensorSource, suffix: str) -> Path:
    """Return ``<checkpoint>-<suffix>``, beside the checkpoint.

    Raises:
        UsageError: There is no directory to be beside of.
    """
    if source.directory is None:
        raise UsageError("Say where to write the result with -o", where=source.name)
    directory = source.directory
    if directory.name in ("", ".."):  # "." and the like have a name only once resolved
        directory = directory.resolve()
    return directory.with_name(f"{directory.name}-{suffix}")


def planned(
    report: Report, surgery: Surgery, asked: str, target: Path, data: str | Path | None
) -> Report:
    """Return the report of a dry run, with the command that would do what it tells."""
    command = command_text(surgery.options, surgery.source, asked, target, data)
    note = f"Dry run: {target} was not written."
    return replace(report, command=command, notes=[*report.notes, note])


def produce(
    surgery: Surgery,
    target: Path,
    *,
    method: str,
    asked: str,
    data: str | Path | None,
    force: bool,
    resume: bool,
    progress: Progress,
) -> Report:
    """Write a surgery's result, or say that the same is there already.

    Args:
        surgery: What to do, planned and checked.
        target: The result directory.
        method: Its name in ``config.json``.
        asked: What the user called the source, for commands to copy.
        data: Audio folder or text file to measure the price on.
        force: Replace a result that is in the way.
        resume: Go on from an interrupted run.
        progress: Called with :class:`surgery.events.Event`.

    Raises:
        SurgeryError: What is wrong, where, and what to do; the target is untouched.
    """
    check_separate(surgery.source.directory, target)
    finished = None if force else _already_done(surgery, method, target)
    if finished is None:
        return _run(surgery, target, method, asked, data, force, resume, progress)
    if data is not None:
        compare = shlex.join(["surgery", "verify", asked, str(target), "--data", str(data)])
        note = f"Nothing was measured on {data} this time; {compare} does that."
        finished = replace(finished, notes=[note, *finished.notes])
    return finished


def _already_done(surgery: Surgery, method: str, target: Path) -> Report | None:
    """Return the finished result's report if source and options are the same."""
    try:
        config = read_json(target / "config.json")
        operations = read_operations(config, where=str(target))
        done = operations[len(surgery.before) :]
        first, provenance = done[0], done[0]["provenance"]
        same = (first["method"], first["options"]) == (method, surgery.options.plain())
        same = same and all(each["provenance"] == provenance for each in done)
        report = from_json((target / "report.json").read_text(encoding="utf-8"))
        with DirectorySource(target) as there:  # whole: every shard, and in it every tensor
            read_stored(there)
            check_loads(there)
            cast_alike = all(
                info.dtype == output_dtype(surgery.source, name, surgery.options.dtype)
                for name, info in there.infos.items()
                if name in surgery.source.infos
            )
    except (OSError, ValueError, LookupError, TypeError, SurgeryError):
        return None
    if not (same and cast_alike):
        return None
    expected = {"sha256": surgery.source.sha256(), **surgery.provenance()}
    if any(provenance.get(key) != value for key, value in expected.items()):
        return None
    note = "Already done: the same source and options are there; nothing was written."
    return replace(report, output=str(target), notes=[note, *report.notes])


def _run(
    surgery: Surgery,
    target: Path,
    method: str,
    asked: str,
    data: str | Path | None,
    force: bool,
    resume: bool,
    progress: Progress,
) -> Report:
    source, options = surgery.source, surgery.options
    check_loads(source)
    check_data(source, data)
    check_measured_words(source, data)
    fingerprint = {
        "source": source.identity(),
        "method": method,
        "options": options.plain(),
        "versions": versions(),
        **surgery.provenance(),
    }
    clock = Clock()
    with Transaction(target, fingerprint, resume=resume, force=force) as transaction:
        surgery.write(transaction, progress, clock)
        if isinstance(surgery, Configures):
            surgery.write_sidecars(transaction.staging)
        else:
            source.write_sidecars(transaction.staging)
        clock.lap("write")
        progress(Event("Hashing the source", 0, 1, source.name))
        sha256 = source.sha256()
        progress(Event("Hashing the source", 1, 1))
        clock.lap("hash")
        operation = {
            "method": method,
            "options": options.plain(),
            "provenance": {
                "source": source.name,
                "sha256": sha256,
                "versions": versions(),
                **surgery.provenance(),
            },
            "sites": surgery.sites(),
        }
        config = source.config
        if options.dtype is not None:
            config["torch_dtype" if "torch_dtype" in config else "dtype"] = options.dtype
        if isinstance(surgery, Configures):
            surgery.configure(config)
        further = surgery.further() if isinstance(surgery, Composes) else {}
        more = [{**operation, "method": name, "sites": sites} for name, sites in further.items()]
        config["surgery"] = surgery_block([*surgery.before, operation, *more])
        write_config(transaction, config)
        _verify_staged(surgery.specs(), transaction.staging)
        report = surgery.report(sha256, str(target))
        measured = measure(source, transaction.staging, data, progress)
        left_out = source.left_out()
        notes = report.notes if left_out is None else [*report.notes, left_out]
        leaked = report.calibration is not None and report.calibration.leaked > 0
        again = partial(command_text, options, source, asked, target, data, leaked=leaked)
        report = replace(report, measurements=measured, notes=notes, command=again())
        clock.lap("measure")
        # What travels with the checkpoint names it, not the place it was made in; and leaves
        # out the seconds, so that a resumed run writes the same bytes.
        named = replace(report, output=target.name, command=again(shown=True))
        write_views(named, transaction)
        clock.lap("report")
        progress(Event("Storing the result on disk", 0, 1))
        transaction.commit()
        progress(Event("Storing the result on disk", 1, 1))
        clock.lap("commit")
    return replace(report, seconds=clock.laps)


def _verify_staged(planned: Mapping[str, list[TensorSpec]], staging: Path) -> None:
    """Open the result as a reader would, and compare every header with the plan."""
    with DirectorySource(staging) as staged:
        found = {name: (info.dtype, info.shape) for name, info in staged.infos.items()}
    for spec in (spec for specs in planned.values() for spec in specs):
        if found.pop(spec.name, None) != (spec.dtype, spec.shape):
            raise CheckpointError(
                f"Tensor {spec.name} was not written as planned",
                where=staging,
                hint="run again; if it happens again, this is a bug worth reporting",
            )


def write_config(transaction: Transaction, config: dict[str, Any]) -> None:
    """Write config.json, and the modelling file where operations are left in the weights."""
    code = place_code(config)
    if code is not None:
        transaction.write_text(FILE, code)
    transaction.write_text("config.json", json.dumps(config, indent=2) + "\n")


def write_views(report: Report, transaction: Transaction) -> None:
    """Write report.json, report.html and the model card into the result."""
    from surgery.report.card import to_card
    from surgery.report.html import to_html

    transaction.write_text("report.json", to_json(report))
    transaction.write_text("report.html", to_html(report))
    transaction.write_text("README.md", to_card(report))
