"""Made-up but plausible reports of tuning runs: Whisper by cores, a 7B by SORSA, HRA, LoRA."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from surgery.report.model.report import Measurement, Report, Source, Trainable
from surgery.report.model.tuning import HeldOut, Moved, Tuning, TuningStep
from tests.report.factory import HOSTILE
from tests.report.linear_factory import NAMES, PARAMETERS, maps_of


@dataclass(frozen=True)
class Run:
    """What one made-up run is: method, model, roles, and what it has to follow."""

    method: str
    size: str
    roles: tuple[str, ...]
    trainable: int
    heads: int = 0
    rank: int = 0
    penalty: str | None = None
    defect: bool = False
    speech: bool = False


RUNS = {
    "core": Run("core", "tiny", ("k", "v"), 589_824, heads=6, rank=64, speech=True),
    "sorsa": Run(
        "sorsa",
        "7b",
        ("q", "k", "v", "o", "gate", "up", "down"),
        159_909_888,
        heads=1,
        rank=128,
        penalty="mean of ‖UᵀU − I‖ over all U and V, 4e-4 of it",
        defect=True,
    ),
    "hra": Run(
        "hra",
        "tiny",
        ("q", "v"),
        73_728,
        penalty="‖UᵀU − I‖², 1e-4 of it",
        defect=True,
        speech=True,
    ),
    "lora": Run("lora", "7b", ("q", "v"), 16_777_216),
}


def make_tuning_report(run: str = "core", *, steps: int = 200, resumed: bool = False) -> Report:
    """Build a report of one of ``RUNS`` with ``steps`` logged steps."""
    one = RUNS[run]
    rng = np.random.default_rng(23)
    name, before = NAMES[one.size], PARAMETERS[one.size]
    data = "digits/train" if one.speech else "tinyshakespeare/input.txt"
    per_log, batch = 5, 16
    last = steps * per_log
    losses = (1.9, 0.21) if one.speech else (2.31, 1.72)
    tuning = Tuning(
        method=one.method,
        recipe="CLOVER paper (arXiv 2411.17426)" if run == "core" else None,
        data=data,
        samples=420,
        steps=[_step(rng, one, n / steps, n * per_log, losses) for n in range(1, steps + 1)],
        held_out=[_held_out(rng, one, n / 10, n * last // 10, losses) for n in range(11)],
        moved=list(_moved(rng, one)),
        penalty=one.penalty,
        examples_seen=last * batch,
        tokens_seen=None if one.speech else last * batch * 512,
        resumed_from=last * 2 // 5 if resumed else None,
        settings={"batch-size": batch, "schedule": "linear", "warmup": 0.05, "seed": 0},
    )
    small = 4 * one.trainable
    wer = [
        Measurement("wer", "Word error rate", "digits/test_seen, 80 clips", "%", 12.41, 1.18),
        Measurement("wer", "Word error rate", "digits/test_unseen, 60 clips", "%", 9.87, 2.2),
    ]
    perplexity = Measurement("perplexity", "Perplexity", "shakespeare, held out", "", 9.93, 5.81)
    return Report(
        title=f"{name}: tuned by {one.method}",
        method=one.method,
        options={"train": one.method, "seed": 0},
        preset=None,
        source=Source(
            name, f"hub/{name}", "whisper" if one.speech else "llama", {"a": "4c" * 32}, "float16"
        ),
        versions={"surgery": "0.5.0", "torch": "2.13.0"},
        sites=[],
        savings=[],
        quantities=[],
        measurements=wer if one.speech else [perplexity],
        seconds={"before": 4.1, "training": 312.4, "after": 4.0},
        output=f"checkpoints/{name.split('/')[-1]}-tuned",
        command=f"surgery tune cores --data ./{data}",
        trainable=Trainable(one.trainable, before, before, 2 * before, small, small),
        tuning=tuning,
    )


def _decay(at: float, ends: tuple[float, float]) -> float:
    return ends[1] + (ends[0] - ends[1]) * math.exp(-5 * at)


def _step(
    rng: np.random.Generator, run: Run, at: float, step: int, ends: tuple[float, float]
) -> TuningStep:
    loss = _decay(at, ends) * float(rng.lognormal(0, 0.14))
    departure = float(1e-6 + 4e-3 * (1 - math.exp(-6 * at)) * rng.lognormal(0, 0.05))
    return TuningStep(
        step,
        loss,
        penalty=4e-4 * 30 * departure * float(rng.lognormal(0, 0.1)) if run.penalty else None,
        defect=departure if run.defect else None,
        learning_rate=1e-4 * min(at / 0.05, (1 - at) / 0.95),
    )


def _held_out(
    rng: np.random.Generator, run: Run, at: float, step: int, ends: tuple[float, float]
) -> HeldOut:
    # a little worse again at the end: what people look for in such a picture
    loss = _decay(at, ends) * (1.03 + 0.12 * max(0.0, at - 0.6)) * float(rng.lognormal(0, 0.012))
    wer = 11.2 * math.exp(-4 * at) + 1.4 + float(rng.normal(0, 0.25))
    return HeldOut(step, loss, max(wer, 0.0) if run.speech else None)


def _moved(rng: np.random.Generator, run: Run) -> list[Moved]:
    moved = []
    for path, role, scope, layer, _, _ in maps_of(run.size):
        if role not in run.roles:
            continue
        depth = (layer or 0) / (3 if run.size == "tiny" else 31)
        scale = (0.004 + 0.03 * depth) * (1.6 if role == "v" else 1.0)
        before: list[float] = []
        after: list[float] = []
        for _ in range(run.heads):
            steepness = 5 if role == "k" else 3
            values = 3 * (1 + depth) * np.exp(-steepness * np.linspace(0, 1, run.rank) ** 0.8)
            values = np.sort(values * rng.lognormal(0, 0.06, run.rank))[::-1]
            push = scale * (0.3 * values.max() * rng.normal(0.2, 0.4, run.rank) + values)
            before += values.tolist()
            after += np.sort(np.abs(values + push))[::-1].tolist()
        change = float(scale * rng.lognormal(0.2, 0.15))
        defect = float(10 ** rng.uniform(-3.2, -2.4)) if run.defect else None
        moved.append(Moved(path, role, scope, layer, before, after, change, defect))
    return moved


def hostile_tuning_report(run: str = "core") -> Report:
    """A report of a tuning run whose every free-text field tries to break out of its page."""
    plain = make_tuning_report(run, steps=30)
    tuning = plain.tuning
    assert tuning is not None
    first, second, *rest = tuning.moved
    return replace(
        plain,
        title=HOSTILE,
        method=HOSTILE,
        preset=HOSTILE,
        command=HOSTILE,
        output=HOSTILE,
        options={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
        notes=[HOSTILE],
        source=Source(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, HOSTILE),
        measurements=[Measurement(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1.0, 2.0)],
        tuning=replace(
            tuning,
            method=HOSTILE,
            recipe=HOSTILE,
            data=HOSTILE,
            penalty=HOSTILE,
            settings={HOSTILE: {HOSTILE: [HOSTILE]}},
            moved=[
                replace(first, path=HOSTILE, role=HOSTILE, scope=HOSTILE, change=9.0),
                replace(second, role=HOSTILE),
                *rest,
            ],
        ),
    )
