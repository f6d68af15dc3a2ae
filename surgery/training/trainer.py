"""The transformers Trainer, thinly extended: penalties, small states, and what is logged.

Mixed precision, accumulation, schedules, resuming, DDP and FSDP are the Trainer's own.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from surgery.errors import CheckpointError, SurgeryError, UsageError
from surgery.events import Event, Progress
from surgery.runtime.shards import whole
from surgery.training.losses import mean_loss, on_model
from surgery.training.penalty import Penalty, worst_defect
from surgery.training.tasks import Task
from surgery.training.trained import parted_linears, trained
from surgery.training.watch import Watch

STATE = "trainer_state.json"
PARTS = "parts.safetensors"
STAGE = "Tuning"


class PartsTrainer(Trainer):
    """Trains whatever requires gradients, and saves nothing else.

    Args:
        model: The model, frozen but for what is trained.
        arguments: From :func:`surgery.training.arguments.training_arguments`.
        task: What it learns from.
        penalty: What is added to the loss.
        watch: What looks at held-out samples.
        progress: Called after every step.
    """

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        task: Task,
        *,
        penalty: Penalty | None,
        watch: Watch | None,
        progress: Progress,
    ) -> None:
        super().__init__(
            model=model,
            args=arguments,
            data_collator=task.collate,
            train_dataset=task.train,
            eval_dataset=task.held_out,
            compute_loss_func=mean_loss,
            callbacks=[told := Told(progress)],
        )
        self.told = told
        self.remove_callback(PrinterCallback)
        _check_shards(self)
        self._penalty, self._watch = penalty, watch
        self._added: float | Tensor = 0.0  # a tensor, so that no step waits for an accelerator
        self._steps = 0.0
        self._maps = list(parted_linears(model).values())

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the mean cross-entropy with the step's share of the penalty added."""
        loss: Any = super().compute_loss(model, inputs, *args, **kwargs)
        if self._penalty is None or not model.training:
            return loss
        # Every process adds the whole: gradients are averaged over processes, not summed.
        part = 1 / self.current_gradient_accumulation_steps
        added = part * self._penalty()
        self._added, self._steps = self._added + added.detach(), self._steps + part
        return loss + added

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Move a batch to the model, features in its dtype."""
        return on_model(super()._prepare_inputs(inputs), self.model)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Tell the loss of the task and the penalty apart, and how orthogonal the parts are."""
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise SurgeryError(
                    "The loss is not a number any more",
                    where=f"step {self.state.global_step}",
                    found=logs["loss"],
                    hint="lower --learning-rate, or train in float32; the last saved state is kept",
                )
            if self._steps:
                logs["penalty"] = float(self._added) / self._steps
                logs["loss"] -= logs["penalty"]
                self._added, self._steps = 0.0, 0.0
            defect = worst_defect(self._maps)
            if defect is not None:
                logs["defect"] = defect
        super().log(logs, *args, **kwargs)

    def look(self) -> dict[str, float]:
        """Return what held-out samples say; every process looks for itself, so that none waits."""
        if self._watch is None:
            return {}
        return self._watch(self.model, self.compute_loss_context_manager)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Look at the held-out samples, and log what they say."""
        metrics = self.look()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save what is trained, and nothing that stays as it was."""
        del _internal_call
        model: Any = self.model
        found = {name: whole(one.detach()).cpu() for name, one in trained(model).items()}
        if not self.args.should_save:  # but every process gathers
            return
        directory = Path(output_dir or self.args.output_dir or ".")
        directory.mkdir(parents=True, exist_ok=True)
        save_file({name: one.contiguous() for name, one in found.items()}, directory / PARTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Read what :meth:`save_model` wrote."""
        load_parts(self.model if model is None else model, Path(resume_from_checkpoint) / PARTS)


@torch.no_grad()
def load_parts(model: Any, file: Path) -> None:
    """Put saved tensors into a model's trained parameters.

    Raises:
        CheckpointError: They are of another model or run.
    """
    saved: dict[str, Tensor] = load_file(file)
    parameters = trained(model)
    if {n: t.shape for n, t in saved.items()} != {n: p.shape for n, p in parameters.items()}:
        raise CheckpointError(
            "The saved state holds other parameters than are trained",
            where=file,
            found=f"{len(saved)} tensors",
            expected=f"{len(parameters)} of the same names and shapes",
        )
    for name, parameter in parameters.items():
        parameter.copy_(_placed(saved[name], parameter))


def _placed(tensor: Tensor, like: Any) -> Tensor:
    """Return a whole tensor where, and in the shards that, a parameter is held in."""
    tensor = tensor.to(like.device)
    if not hasattr(like, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    placed: Tensor = distribute_tensor(tensor, like.device_mesh, like.placements)
    return placed


def _check_shards(trainer: Trainer) -> None:
    """Refuse shards that do not leave a parameter a parameter.

    Raises:
        UsageError: DeepSpeed, or the first version of FSDP, which flattens parameters.
    """
    found = "DeepSpeed" if trainer.is_deepspeed_enabled else None
    if trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2:
        found = "FSDP, version 1"
    if found is not None:
        raise UsageError(
            "Small parts are saved and penalised one by one, and this flattens them",
            where="accelerate's configuration",
            found=found,
            expected="DDP, as torchrun sets it up, or FSDP with fsdp_version: 2",
        )


def latest_state(directory: Path) -> Path | None:
    """Return the newest whole state below a directory: what ``resume_from_checkpoint`` takes."""
    found = []
    for path in directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        number = path.name.rpartition("-")[2]
        # The trainer writes its own state last, so a state with one is whole.
        try:
            json.loads((path / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if number.isdigit() and (path / PARTS).is_file():
            found.append((int(number), path))
    return max(found)[1] if found else None


def step_of(state: Path) -> int:
    """Return after which step a state was saved."""
    return int(state.name.rpartition("-")[2])


class Told(TrainerCallback):
    """Tells of every step.

    Attributes:
        start: The held-out loss before the first step, where there was a look.
    """

    def __init__(self, progress: Progress) -> None:
        self.start: float | None = None
        self._progress, self._detail, self._held_out = progress, "", ""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell how far it is; have the last step logged, however seldom others are."""
        del args, kwargs
        if state.global_step >= state.max_steps:
            control.should_log = True
        self._tell(state)

    def _tell(self, state: Any) -> None:
        detail = ", ".join(filter(None, (self._detail, self._held_out)))
        self._progress(Event(STAGE, state.global_step, state.max_steps, detail))

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember the loss, and the held-out loss beside that of the start."""
        del args, control
        logs = kwargs.get("logs") or {}
        if "loss" in logs:
            shown = (("loss", ".4g"), ("penalty", ".2g"), ("learning_rate", ".2g"))
            words = [f"{n.replace('_', ' ')} {logs[n]:{f}}" for n, f in shown if n in logs]
            self._detail = ", ".join(words)
            self._tell(state)
        if "eval_loss" in logs:
            loss, start = logs["eval_loss"], self.start
            self._held_out = f"held-out {loss:.4g}"
            if start is not None:
                self._held_out += f", {start:.4g} at the start"
            self._tell(state)
