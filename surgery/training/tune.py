"""Tune: from a checkpoint and data to an adapter directory with its report."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.transaction import Transaction, check_separate
from surgery.choices.option import flag
from surgery.engine.measure.input import check_data, data_kind
from surgery.engine.measure.leakage import check_unseen
from surgery.engine.measure.measure import measure
from surgery.engine.measure.words import check_measured_words
from surgery.engine.result import CHECKPOINTS, Clock, write_views
from surgery.errors import CheckpointError, UsageError, note_kept
from surgery.evaluation.unused import warn_of_unused
from surgery.events import Progress, ignore
from surgery.report.model.report import Report
from surgery.report.serialise import from_json
from surgery.stored.adapter import read_adapter, write_adapter
from surgery.stored.loading import check_device
from surgery.stored.stored import Stored, read_stored
from surgery.training.arguments import check_precision
from surgery.training.learn import Learned, learn
from surgery.training.options import TuneOptions, settle
from surgery.training.preparation import Preparation
from surgery.training.prepare import prepare
from surgery.training.processes import Processes
from surgery.training.request import BASE, Request
from surgery.training.result import tuning_report
from surgery.training.start import carries_parts, what_is_trained
from surgery.training.tasks import check_training_data, check_training_words, row_length
from surgery.training.tensorboard import check_installed
from surgery.training.trainer import latest_state, step_of


def tune(
    checkpoint: str | Path,
    out: str | Path | None = None,
    *,
    data: str | Path,
    train: str | None = None,
    preparation: Preparation | None = None,
    options: TuneOptions | None = None,
    eval_data: str | Path | None = None,
    force: bool = False,
    resume: bool = False,
    progress: Progress = ignore,
) -> Report | None:
    """Train only the small parts of a checkpoint, and write them as an adapter.

    Args:
        checkpoint: A directory that surgery wrote, or, with ``train``, any model.
        out: Result directory; ``checkpoints/<name>-tuned`` by default.
        data: Folder of audio with ``transcripts.tsv`` for Whisper; text, ``.jsonl`` or a folder
            of these for language models.
        train: What: ``diagonal``, ``core``, ``sorsa``, ``pissa``, ``hra``, ``goft``, ``qgoft``,
            ``lora`` or ``full``. By default what the checkpoint carries, or ``core`` for a
            pruned one. A checkpoint that does not carry it is prepared first.
        preparation: How; by default as its method is used in its paper.
        options: How it is trained; by default the method's recipe.
        eval_data: Audio folder or text file to measure on before and after; other than ``data``.
        force: Replace a result that is in the way.
        resume: Go on from an interrupted run with the same data and options.
        progress: Called with :class:`surgery.events.Event`.

    Returns:
        The report: losses, how far each map moved, and the measured before and after. ``None``
        in all processes but the first, where several train together (torchrun, accelerate).

    Raises:
        SurgeryError: What is wrong, where, and what to do; the target is untouched.
    """
    options, preparation = options or TuneOptions(), preparation or Preparation()
    processes = Processes.here()
    with ExitStack() as opened:
        source = opened.enter_context(resolve(str(checkpoint)))
        stored = read_stored(source)
        method = what_is_trained(stored, train)
        _check_preparation(stored, method, preparation)
        check_training_data(Path(data), data_kind(source))
        if processes.first:
            warn_of_unused(Path(data), data_kind(source))
        if data_kind(source) == "text":
            row_length(source.config, options.length)
        check_training_words(source, Path(data))
        check_data(source, eval_data)
        check_measured_words(source, eval_data)
        check_device(options.device)
        check_precision(options)
        if options.tensorboard:
            check_installed()
        target = Path(out) if out is not None else CHECKPOINTS / f"{source.slug}-tuned"
        check_separate(source.directory, target)
        request = Request(
            stored=stored,
            asked=str(checkpoint),
            method=method,
            preparation=preparation,
            settings=settle(options, method, processes.count),
            data=Path(data),
            target=target.resolve(),
            eval_data=None if eval_data is None else Path(eval_data),
        )
        finished = None if force else _already_done(request)
        if finished is not None:
            return finished if processes.first else None
        if not processes.first:
            processes.wait(request)
            learn(request, resume=resume, transaction=None, progress=ignore)
            return None
        request.check_apart()
        if eval_data is not None:
            check_unseen(source, eval_data)
        fingerprint = request.fingerprint()
        with Transaction(target, fingerprint, resume=resume, force=force) as transaction:
            clock = Clock()
            if not request.prepared:
                try:
                    prepare(request, progress)
                finally:  # a request that was refused leaves nothing to go on from
                    if request.base_begun:
                        transaction.record("tune:begun")
                clock.lap("prepare")
            processes.wait(request)
            try:
                learned = learn(request, resume=resume, transaction=transaction, progress=progress)
            except BaseException as error:
                if (state := latest_state(request.states)) is not None:
                    note_kept(error, f"the state of step {step_of(state)}", state)
                raise
            clock.lap("train")
            report = _write(request, learned, transaction, eval_data, progress)
            transaction.commit()
            clock.lap("write")
            return replace(report, seconds=clock.laps)


def _check_preparation(stored: Stored, method: str, preparation: Preparation) -> None:
    if not carries_parts(stored, method) or method == "lora":
        preparation.check(method)
    elif preparation.given():
        raise UsageError(
            "The checkpoint says itself what is trained, and how much of it",
            found=", ".join(map(flag, preparation.given())),
            hint="leave these out",
        )


def _already_done(request: Request) -> Report | None:
    """Return the finished run's report if checkpoint, data and options are the same."""
    try:
        adapter = read_adapter(request.target)
        report = from_json((request.target / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, LookupError, TypeError, CheckpointError):
        return None
    known = adapter.provenance.get("source"), adapter.provenance.get("listing")
    if adapter.options != request.plain() or known[1] != request.listing:
        return None
    if known[0] != request.source.sha256():
        return None
    note = "Already done: the same checkpoint, data and options; nothing was trained."
    return replace(report, output=str(request.target), notes=[note, *report.notes])


def _write(
    request: Request,
    learned: Learned,
    transaction: Transaction,
    eval_data: str | Path | None,
    progress: Progress,
) -> Report:
    """Write the adapter and its report into the transaction, measured as written."""
    write_adapter(
        request.staging,
        learned.tensors,
        base=learned.base,
        method=request.method,
        operation=learned.operation,
        options=request.plain(),
        provenance=request.provenance(),
        base_path=None if request.prepared else BASE,
    )
    shutil.rmtree(request.states, ignore_errors=True)
    source, target = request.source, request.target
    measured = measure(source, request.staging, eval_data, progress)
    report = tuning_report(request, learned, measured)
    # What travels with the adapter names its base, not the place it was made in.
    named = replace(report, output=target.name, command=request.command(target, shown=True))
    write_views(named, transaction)
    return report
