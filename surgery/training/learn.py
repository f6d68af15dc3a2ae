"""The training itself, in every process: load the base, choose what learns, train, take it out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import set_seed

from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction
from surgery.engine.measure.input import read_processor
from surgery.events import Event, Progress
from surgery.report.model.tuning import Moved
from surgery.runtime.shards import whole
from surgery.stored.block import Operation
from surgery.stored.loading import load
from surgery.stored.stored import Stored, TreatedLinear, read_stored
from surgery.training.arguments import training_arguments
from surgery.training.lora import lora_parts, wrap
from surgery.training.moved import moved_maps
from surgery.training.penalty import Penalty
from surgery.training.preparation import DEFAULT_RANK
from surgery.training.request import Request
from surgery.training.start import lora_paths
from surgery.training.tasks import Task, open_task
from surgery.training.tensorboard import logging_into
from surgery.training.trained import (
    freeze,
    names_in_file,
    parted_linears,
    stored_names,
    stored_paths,
    trained,
)
from surgery.training.trainer import PartsTrainer, latest_state, step_of
from surgery.training.watch import Watch

FIRST = "tune:first"

Parts = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Learned:
    """What came of a training.

    Attributes:
        base: The checkpoint that the tensors belong on.
        tensors: What was trained, by the names the base's files have for it, on the CPU.
        operation: What tensors make that the base lacks.
        moved: How far each map went.
        task: What was learnt from.
        history: What the trainer logged.
        first: What held-out samples said before.
        epochs: Passes over the data.
        resumed_from: Step of the state that was resumed.
        penalty: What was added to the loss.
    """

    base: TensorSource
    tensors: dict[str, Tensor]
    operation: Operation | None
    moved: list[Moved]
    task: Task
    history: list[dict[str, Any]]
    first: dict[str, float]
    epochs: float
    resumed_from: int | None
    penalty: str | None


def learn(
    request: Request, *, resume: bool, transaction: Transaction | None, progress: Progress
) -> Learned:
    """Train what the request names.

    Args:
        request: The run.
        resume: Go on from the newest whole state.
        transaction: Notes what a resumed run cannot measure again; only in the first process.
        progress: Called with :class:`surgery.events.Event`.
    """
    settings, options = request.settings, request.settings.options
    progress(Event("Loading the model", 0, 1))
    set_seed(options.seed)  # LoRA's start is random
    base = resolve(str(request.base))
    carried = read_stored(base)
    model: Any = load(request.base, dtype=options.dtype)
    model.config.use_cache = False
    if options.gradient_checkpointing:
        # Its name from transformers 5.24 on; the older one warns there.
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
        model.enable_input_require_grads()  # nothing before the first small part is trained
    processor = read_processor(request.base, request.kind)
    progress(Event("Loading the model", 1, 1))
    progress(Event("Reading the data", 0, 1, str(request.data)))
    task = open_task(request.data, request.kind, processor, model, options)
    progress(Event("Reading the data", 1, 1))

    lora: list[str] = []
    if request.method == "lora":
        lora = _model_paths(model, lora_paths(carried, request.preparation))
        model = wrap(model, lora, request.preparation.rank or DEFAULT_RANK)
    elif request.method == "full":
        model.requires_grad_(True)
    else:
        freeze(model, also=options.also)

    parted = parted_linears(model)
    penalty = None
    if settings.penalty:
        penalty = Penalty(request.method, list(parted.values()), settings.penalty)
    watch = None
    if task.held_out is not None:
        watch = Watch(task, processor, settings)
    before = _parts(model)
    per_epoch = math.ceil(task.samples / settings.batch)
    steps = settings.steps or math.ceil(settings.epochs * per_epoch)
    trainer = PartsTrainer(
        model,
        training_arguments(settings, request.states, steps=steps, watched=watch is not None),
        task,
        penalty=penalty,
        watch=watch,
        progress=progress,
    )
    if options.tensorboard and transaction is not None:
        trainer.add_callback(logging_into(request.staging))
    state = latest_state(request.states) if resume else None
    if watch is not None:
        progress(Event("Looking at held-out samples", 0, 1))
    first = _first_look(trainer, transaction)
    trainer.told.start = first.get("eval_loss")
    set_seed(options.seed)  # so that a run which need not look again draws the same numbers
    trainer.train(resume_from_checkpoint=None if state is None else str(state))
    looked = {entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry}
    if watch is not None and trainer.state.global_step not in looked:
        trainer.evaluate()
    trainer.accelerator.wait_for_everyone()  # the first will delete states that all write to
    progress(Event("Measuring how far maps moved", 0, 1))
    model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    treated: Mapping[str, TreatedLinear] = carried.linears
    operation = None
    if lora:
        before, after, treated, operation = lora_parts(model, carried, lora)
        tensors = {f"{p}.{name}": t for p, own in after.items() for name, t in own.items()}
    else:
        tensors = _trained(model, carried)
        before, after = (_by_path(carried, model, parts) for parts in (before, _parts(model)))
    moved = moved_maps(base, treated, before, after)
    progress(Event("Measuring how far maps moved", 1, 1))
    return Learned(
        base=base,
        tensors=tensors,
        operation=operation,
        moved=moved,
        task=task,
        history=trainer.state.log_history,
        first=first,
        epochs=float(trainer.state.epoch or 0.0),
        resumed_from=None if state is None else step_of(state),
        penalty=None if penalty is None else penalty.described,
    )


def _first_look(trainer: PartsTrainer, transaction: Transaction | None) -> dict[str, float]:
    """Return what held-out samples say before the first step of the first run."""
    if transaction is None:
        return trainer.look()
    if not transaction.done(FIRST):
        transaction.record(FIRST, trainer.look())
    return dict(transaction.payload(FIRST))


def _parts(model: Any) -> Parts:
    """Return a copy of every small part, by the model's path and the part's name."""
    return {
        path: {name: whole(part.detach()).cpu().clone() for name, part in one.parts().items()}
        for path, one in parted_linears(model).items()
    }


def _by_path(carried: Stored, model: Any, parts: Parts) -> Parts:
    """Return parts under the checkpoint's paths in place of the model's."""
    paths = stored_paths(carried, model, parts)
    return {paths[path]: own for path, own in parts.items()}


def _trained(model: Any, carried: Stored) -> dict[str, Tensor]:
    """Return what was trained, under the checkpoint's names, in float32 as it was trained."""
    names = names_in_file(model, trained(model), carried.source.infos)
    tensors: dict[str, Tensor] = {}
    for parameter, spelled in names:
        tensor = whole(parameter.detach()).cpu().contiguous()
        tensors |= dict.fromkeys(spelled, tensor)
    return tensors


def _model_paths(model: Any, paths: Sequence[str]) -> list[str]:
    """Return what the model calls each of a checkpoint's linear maps."""
    known = dict(model.named_parameters())
    names = stored_names([f"{path}.weight" for path in paths], known, model.base_model_prefix)
    return [name.removesuffix(".weight") for name in names.values()]
