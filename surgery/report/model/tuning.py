"""What a tuning run did, step by step, and how far it moved the weights: plain dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TuningStep:
    """What was logged at one step: means over the steps since the last log.

    Attributes:
        step: Optimiser steps made, counted from the first of all runs.
        loss: Loss on the training data in nats a token, without any penalty.
        penalty: Penalty as it was added to the loss, its weight included; ``None`` where the
            method has none.
        defect: Largest departure from orthonormality of any trained part; ``None`` where
            nothing is to stay orthonormal.
        learning_rate: Learning rate of the step itself.
    """

    step: int
    loss: float
    penalty: float | None
    defect: float | None
    learning_rate: float


@dataclass(frozen=True)
class HeldOut:
    """What the part of the training data that was held out told at one step.

    Attributes:
        step: Optimiser steps made before; 0 is before any.
        loss: Loss in nats a token, without any penalty.
        wer: Word error rate in per cent, where speech was transcribed.
        words: How many were said there, where that is known.
    """

    step: int
    loss: float
    wer: float | None = None
    words: int | None = None


@dataclass(frozen=True)
class Moved:
    """How far training moved one linear map.

    Attributes:
        path: Path of its module.
        role: What it plays: ``q``, ``up``, ...; ``q,k,v`` where these are fused.
        scope: Which tower or attention it belongs to.
        layer: Its layer; ``None`` outside the layers.
        before: Singular values of the trained part before: each head's (or block's) in
            descending order, one head after the other; empty where the method has none.
        after: The same after, head by head and each head descending again, so that a place
            is a rank and not a direction. As long as ``before``.
        change: ``||W_after - W_before||_F / ||W_before||_F`` of the map with its part merged.
        defect: Departure from orthonormality after; ``None`` where nothing is to stay
            orthonormal.
    """

    path: str
    role: str
    scope: str
    layer: int | None
    before: list[float]
    after: list[float]
    change: float
    defect: float | None = None


@dataclass(frozen=True)
class Tuning:
    """What a tuning run did. How many numbers it trained is the report's ``trainable``.

    Attributes:
        method: What was trained: ``core``, ``sorsa``, ``lora``, ``full``, ...
        recipe: Named recipe the settings came from; ``None`` without one.
        data: Name of the training data.
        samples: Recordings or documents it holds, the held-out ones not counted.
        steps: What was logged, by rising step.
        held_out: What held-out training data told, by rising step.
        moved: The maps that were trained, in the model's order.
        penalty: Which penalty with which weight: ``orthonormality, 0.001 * ||UᵀU - I||²``;
            ``None`` without one.
        examples_seen: Examples that went through the model, repeats counted.
        tokens_seen: Tokens whose prediction counted, repeats counted.
        resumed_from: Step an interrupted run was resumed from; ``None`` for one run.
        settings: Settings as the run resolved them (``batch_size``, ``schedule``, ...).
    """

    method: str
    recipe: str | None
    data: str
    samples: int
    steps: list[TuningStep] = field(default_factory=list)
    held_out: list[HeldOut] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    penalty: str | None = None
    examples_seen: int = 0
    tokens_seen: int | None = None
    resumed_from: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
