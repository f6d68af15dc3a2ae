"""What there is to say of a small trainable part beside how it computes: one entry a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Schedule = Literal["linear", "cosine", "constant"]
SCHEDULES: tuple[Schedule, ...] = ("linear", "cosine", "constant")


@dataclass(frozen=True)
class MethodWords:
    """How a method is told to people: general words where it has none of its own.

    ``{maps}`` stands for the linear maps treated, ``{size}`` for the rank or the number of
    reflections.

    Attributes:
        name: The method as its authors write it.
        did: What was done, past tense, the start of a sentence.
        would: The same for a run that writes nothing.
        splits: Whether a principal part was taken out of the weight.
        size: Option that holds the method's size; empty where it has none.
        frozen: What the stored weight is now.
        trained: What the small part is.
        start: Why the function starts unchanged.
        merging: What merging computes.
        defect: What the orthogonality defect was measured on.
        prefix: How the names of the small tensors begin.
        compared: What is compared with the original for the start error.
        spectra: What the singular values are of.
        reading: How to read a picture of them.
    """

    name: str = ""
    did: str = "Gave {maps} small trainable parts"
    would: str = "{maps} would get small trainable parts"
    splits: bool = False
    size: str = ""
    frozen: str = "The stored weight."
    trained: str = "The small parts beside or in front of it."
    start: str = "The small parts start so that the function is the original's."
    merging: str = "folds the small parts into the weight"
    defect: str = "of the small parts"
    prefix: str = ""
    compared: str = "weight"
    spectra: str = "principal parts"
    reading: str = (
        "A steep curve is caught by a small rank; a flat one goes on below the last value drawn."
    )


@dataclass(frozen=True)
class Recipe:
    """How a paper trained its own method.

    Attributes:
        name: What it is called on the command line.
        learning_rate: Peak learning rate of AdamW.
        schedule: How it falls after the warm-up.
        warmup: Steps of linear warm-up, or, below one, the share of all steps.
        batch: Sequences or recordings a step, over all processes.
        epochs: Passes over the data.
        penalty: Weight of the method's regulariser; ``None`` where it has none.
        source: Where the numbers stand, and which of them are ours.
    """

    name: str
    learning_rate: float
    schedule: Schedule
    warmup: float
    batch: int
    epochs: float
    source: str
    penalty: float | None = None


@dataclass(frozen=True)
class SmallPart:
    """A method that leaves something small to train.

    How it runs and merges is the runtime's own table, under the same name
    (:data:`surgery.runtime.parts.LINEAR_METHODS`), since that travels inside checkpoints.

    Attributes:
        name: What it is called in commands and in ``config.json``.
        command: The command that gives it to a checkpoint; ``tune`` where that only trains so.
        help: What it is, in some words, for the choices of that command.
        settings: The options that are its own, by the names they have in Python.
        treatment: From its settings to the :class:`surgery.methods.Treatment` that says how one
            map begins; ``None`` where heads are factored together, or nothing is written.
        title: What is done, for the report's title.
        words: How it is told.
        recipe: How its paper trains it.
        penalty: What its paper adds to the loss, as a formula; empty: nothing.
    """

    name: str
    command: Literal["split", "reparam", "tune"]
    help: str
    settings: tuple[str, ...] = ("targets",)
    treatment: Callable[..., Any] | None = None
    title: str = ""
    words: MethodWords = field(default_factory=MethodWords)
    recipe: Recipe | None = None
    penalty: str = ""
