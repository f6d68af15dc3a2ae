"""What a user can ask of a tuning run, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Literal, get_args

from surgery.choices.common import DTYPES, choice
from surgery.choices.option import SEED, asked
from surgery.choices.parts import PARTS, listed, penalised, recipes
from surgery.choices.small_part import SCHEDULES, Schedule
from surgery.errors import UsageError
from surgery.training.recipes import recipe_of

Precision = Literal["float32", "bf16", "fp16"]
Also = Literal["biases", "norms"]
DEVICES = ("cpu", "cuda", "mps", "xpu")


@dataclass(frozen=True)
class TuneOptions:
    """Options of one run. ``None`` takes the recipe's value.

    Attributes:
        recipe: Name of a published recipe; ``None``: the method's own.
        epochs: Passes over the data.
        steps: Optimiser steps, in place of epochs.
        batch: Sequences or recordings a step, over all processes and accumulated micro-batches.
        micro_batch: Those at once in one process: what memory allows.
        learning_rate: Peak learning rate of AdamW.
        schedule: How it falls after the warm-up.
        warmup: Steps of linear warm-up, or, below one, the share of all steps.
        weight_decay: AdamW's.
        clip: Largest norm of the gradient; 0 does not clip.
        penalty: Weight of the method's regulariser.
        also: What else is trained: ``biases``, ``norms``.
        length: Tokens a row of packed text; ``None``: what the model can see, at most 512.
        language: What is spoken, for a multilingual Whisper.
        held_out: Share of the training data kept back to watch, at most 64 samples.
        evaluate_every: Steps between two looks at it; ``None``: ten looks a run.
        transcribe: Transcribe held-out recordings, too, for a word error rate.
        log_every: Steps between two logged losses.
        save_every: Steps between two states that ``--resume`` can go on from.
        precision: ``bf16`` or ``fp16`` for automatic mixed precision.
        dtype: Dtype that frozen weights are held in; the small parts are float32 in any case.
            16 bits halve the memory of what is not trained.
        gradient_checkpointing: Compute activations anew in the backward pass, to save memory.
        seed: Where randomness begins: the order of the data, the held-out samples, dropout.
        device: ``cpu`` even where there is an accelerator; ``None``: the accelerator.
        workers: Processes that prepare data.
        tensorboard: Write a log for tensorboard.
    """

    recipe: str | None = asked(None, lambda: f"{', '.join(recipes())}; default: fitting.")
    epochs: float | None = asked(None, "Passes over the data.")
    steps: int | None = asked(None, "Optimiser steps, not epochs.")
    batch: int | None = asked(None, "Samples a step, over all processes together.")
    micro_batch: int | None = asked(None, "Samples at once in a process: what memory allows.")
    learning_rate: float | None = asked(
        None, "Peak learning rate of AdamW.", "--learning-rate", "--lr"
    )
    schedule: Schedule | None = asked(None, "How the learning rate falls.")
    warmup: float | None = asked(None, "Steps of warm-up, or, below 1, share of all steps.")
    weight_decay: float = asked(0.0, "Of AdamW.")
    clip: float = asked(1.0, "Largest norm of the gradient; 0: any.")
    penalty: float | None = asked(
        None, lambda: f"Weight of the regulariser of {listed(penalised(), 'or')}."
    )
    also: tuple[Also, ...] = asked(
        (), "What is trained beside.", reads="words", metavar="biases,norms"
    )
    length: int | None = asked(None, "Tokens a row of packed text; default: at most 512.")
    language: str = asked("en", "What is spoken, if not English.")
    held_out: float = asked(0.05, "Share of the data kept back to watch, at most 64 samples.")
    evaluate_every: int | None = asked(None, "Steps between looks at it; default: ten looks a run.")
    transcribe: bool = asked(True, "Word error rate of it, too.", "--transcribe/--no-transcribe")
    log_every: int = asked(5, "Steps between logged losses.")
    save_every: int = asked(50, "Steps between states to resume from.")
    precision: Precision = asked("float32", "Mixed precision.")
    dtype: str = asked("float32", "Of the frozen weights; small parts are float32.", among=DTYPES)
    gradient_checkpointing: bool = asked(False, "Save memory, take longer.")
    seed: int = asked(0, SEED, least=0)
    device: str | None = asked(None, "Default: the accelerator, where there is one.", among=DEVICES)
    workers: int = asked(0, "Processes that prepare data.", least=0)
    tensorboard: bool = asked(False, "Log for tensorboard, in OUT/tensorboard.")

    def __post_init__(self) -> None:
        """Refuse values out of their range."""
        choice("--schedule", self.schedule, (None, *SCHEDULES))
        choice("--precision", self.precision, get_args(Precision))
        choice("--device", self.device, (None, *DEVICES))
        choice("--dtype", self.dtype, DTYPES)
        for beside in self.also:
            choice("--also", beside, get_args(Also))
        if self.also and self.dtype != "float32":
            raise UsageError(
                "Biases and norms are trained in the dtype of the weights, which has too few bits",
                where="--also, --dtype",
                found=self.dtype,
                expected="float32",
            )
        if self.epochs is not None and self.steps is not None:
            raise UsageError("Give --epochs or --steps, not both")
        positive = ("epochs", "steps", "batch", "micro_batch", "learning_rate", "length")
        for name in (*positive, "evaluate_every", "log_every", "save_every"):
            self._check(name, above=True)
        for name in ("warmup", "weight_decay", "clip", "penalty", "held_out", "workers"):
            self._check(name, above=False)
        if self.length is not None and self.length < 2:
            raise UsageError("--length leaves nothing to predict", found=self.length)
        if self.held_out >= 1:
            raise UsageError(
                "--held-out leaves nothing to train on",
                found=self.held_out,
                expected="a share of the data below 1, such as 0.05; 0 keeps nothing back",
            )

    def _check(self, name: str, *, above: bool) -> None:
        value = getattr(self, name)
        if value is None or (isfinite(value) and (value > 0 if above else value >= 0)):
            return
        raise UsageError(
            f"--{name.replace('_', '-')} is out of its range",
            found=value,
            expected="a positive number" if above else "zero or a positive number",
        )

    def plain(self) -> dict[str, Any]:
        """Return the options as JSON values, by the command line's names."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


@dataclass(frozen=True)
class Settings:
    """Options with the recipe filled in: what is done.

    Attributes:
        options: What was asked for.
        recipe: Name of the recipe.
        source: Where its numbers come from.
        learning_rate: Of AdamW.
        schedule: How it falls.
        warmup: Steps, or below one a share of them.
        batch: Samples a step, over all processes.
        micro_batch: Samples at once in one process.
        accumulate: Micro-batches a step in each process.
        epochs: Passes over the data, where ``steps`` is ``None``.
        steps: Optimiser steps.
        penalty: Weight of the regulariser; ``None`` where there is none.
    """

    options: TuneOptions
    recipe: str
    source: str
    learning_rate: float
    schedule: Schedule
    warmup: float
    batch: int
    micro_batch: int
    accumulate: int
    epochs: float
    steps: int | None
    penalty: float | None

    def plain(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        mine = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "options"}
        if self.steps is not None:  # then the recipe's passes are not made
            mine["epochs"] = None
        return {**self.options.plain(), **mine}


LARGEST_MICRO_BATCH = 8


def settle(options: TuneOptions, method: str, processes: int = 1) -> Settings:
    """Fill in the recipe and divide the batch among processes and micro-batches.

    Args:
        options: What was asked for.
        method: What is trained; one of :data:`~surgery.choices.parts.PARTS`.
        processes: How many train together.

    Raises:
        UsageError: The recipe is unknown, a penalty has nothing to act on, or the batch does
            not divide.
    """
    recipe = recipe_of(options.recipe, method)
    penalty = recipe.penalty if options.penalty is None else options.penalty
    if not PARTS[method].penalty:
        if options.penalty:
            raise UsageError(
                f"{method} has no regulariser",
                where="--penalty",
                found=options.penalty,
                expected="nothing; these have one: " + ", ".join(penalised()),
            )
        penalty = None
    elif penalty is None:
        penalty = 0.0
    if method == "full" and options.dtype != "float32":
        raise UsageError(
            "Weights that are trained themselves need float32",
            where="--dtype",
            found=options.dtype,
            hint="leave it out, and use --precision bf16",
        )
    if options.also and PARTS[method].command == "tune":
        raise UsageError(
            f"{method} trains nothing beside itself",
            where="--also",
            found=", ".join(options.also),
            hint="leave it out" + ("; everything is trained" if method == "full" else ""),
        )
    batch = options.batch or recipe.batch
    share, left = divmod(batch, processes)
    micro = options.micro_batch or _divisor(share)
    if left or not share or share % micro:
        raise UsageError(
            "The batch does not divide among processes and micro-batches",
            where="--batch",
            found=f"{batch} samples a step, {processes} processes, {micro} at once",
            expected="a multiple of both: batch = processes × micro-batch × accumulated steps",
        )

    def chosen(name: str) -> Any:
        mine = getattr(options, name)
        return getattr(recipe, name) if mine is None else mine

    return Settings(
        options=options,
        recipe=recipe.name,
        source=recipe.source,
        learning_rate=chosen("learning_rate"),
        schedule=chosen("schedule"),
        warmup=chosen("warmup"),
        batch=batch,
        micro_batch=micro,
        accumulate=share // micro,
        epochs=chosen("epochs"),
        steps=options.steps,
        penalty=penalty,
    )


def _divisor(share: int) -> int:
    """Return the largest micro-batch that divides a process's share."""
    return next((n for n in range(min(share, LARGEST_MICRO_BATCH), 0, -1) if share % n == 0), 1)
