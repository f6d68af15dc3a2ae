"""From a finished training to the report that every view is drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from surgery.checkpoint.source import TensorSource
from surgery.report.accounting import told_source
from surgery.report.model.report import Measurement, Report, Trainable
from surgery.report.model.tuning import HeldOut, Tuning, TuningStep
from surgery.stored.stored import stored_dtype
from surgery.training.learn import Learned
from surgery.training.request import BASE, Request
from surgery.version import versions


def logged_steps(history: Sequence[Mapping[str, Any]]) -> list[TuningStep]:
    """Return what the trainer logged of the loss."""
    return [
        TuningStep(
            step=int(entry["step"]),
            loss=float(entry["loss"]),
            penalty=entry.get("penalty"),
            defect=entry.get("defect"),
            learning_rate=float(entry["learning_rate"]),
        )
        for entry in history
        if "loss" in entry
    ]


def held_out_steps(
    first: Mapping[str, float], history: Sequence[Mapping[str, Any]]
) -> list[HeldOut]:
    """Return what held-out samples said, before the first step and at every look."""
    looks = {int(entry["step"]): entry for entry in history if "eval_loss" in entry}
    found = {0: first, **looks} if first else looks
    return [
        HeldOut(step, float(entry["eval_loss"]), entry.get("eval_wer"), entry.get("eval_words"))
        for step, entry in sorted(found.items())
    ]


def held_out_rows(held_out: Sequence[HeldOut], name: str) -> list[Measurement]:
    """Return before and after on held-out training samples as rows of the table."""
    if not held_out:
        return []
    first, last = held_out[0], held_out[-1]
    data = f"{name}, held out"
    rows = [Measurement("held_out_loss", "Loss", data, "nat", first.loss, last.loss)]
    if last.wer is not None:
        rates = first.wer, last.wer
        rows.insert(0, Measurement("wer", "Word error rate", data, "%", *rates, words=last.words))
    return rows


def trainable_numbers(
    source: TensorSource, base: TensorSource, trained: Mapping[str, Tensor]
) -> Trainable:
    """Return how many numbers are trained, of how many.

    Args:
        source: The checkpoint that was named.
        base: What the adapter belongs on: the same, or prepared from it.
        trained: Every trained tensor, by its name in the adapter; some may be new.
    """
    count = sum(tensor.numel() for tensor in trained.values())
    added = sum(one.numel() for name, one in trained.items() if name not in base.infos)
    kept = sum(info.numel for name, info in base.infos.items() if name not in trained)
    return Trainable(
        trainable=count,
        frozen=kept,
        before=sum(info.numel for info in source.infos.values()),
        bytes_before=_stored_bytes(source),
        bytes_after=_stored_bytes(base) + 4 * added,
        adapter_bytes=4 * count,
    )


def _stored_bytes(source: TensorSource) -> int:
    return sum(info.numel * info.dtype.itemsize for info in source.infos.values())


def tuning_report(request: Request, learned: Learned, measured: Sequence[Measurement]) -> Report:
    """Assemble the report of a run.

    Args:
        request: What was asked.
        learned: What came of it.
        measured: Before and after on data of its own.
    """
    source, settings, task = request.source, request.settings, learned.task
    held_out = held_out_steps(learned.first, learned.history)
    tuning = Tuning(
        method=request.method,
        recipe=settings.recipe,
        data=task.name,
        samples=task.samples,
        steps=logged_steps(learned.history),
        held_out=held_out,
        moved=learned.moved,
        penalty=learned.penalty,
        examples_seen=round(learned.epochs * task.samples),
        tokens_seen=round(learned.epochs * task.tokens),
        resumed_from=learned.resumed_from,
        settings=settings.plain(),
    )
    note = f"The base was prepared for {request.method} first; it is kept in {BASE}/."
    return Report(
        title=f"{source.name}: {request.method}, tuned",
        method=request.method,
        options=request.plain(),
        preset=None,
        source=told_source(source, stored_dtype(source), source.sha256()),
        versions=versions(),
        sites=[],
        savings=[],
        quantities=[],
        measurements=[*measured, *held_out_rows(held_out, task.name)],
        notes=[] if request.prepared else [note],
        output=str(request.target),
        command=request.command(request.target),
        trainable=trainable_numbers(source, learned.base, learned.tensors),
        tuning=tuning,
    )
