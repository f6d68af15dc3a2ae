"""Whole runs of the tuner on tiny models, and what is looked at while they train."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import surgery
from surgery.report.model.report import Report
from surgery.training.trainer import PartsTrainer
from tests.engine.support import save_tiny

LETTERS = "abcdefghijklmnopqrstuvwxyz .\n"
ROWS, LENGTH = 32, 24


def tokenizer() -> Any:
    """Letter by letter; a text begins with ``<s>`` and ends with ``</s>``."""
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]  # numbers as in the models' configurations
    made = Tokenizer(
        models.BPE({word: number for number, word in enumerate([*special, *LETTERS])}, [])
    )
    made.add_special_tokens(special)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def save_model(name: str, directory: Path) -> Path:
    """A tiny model that can read."""
    save_tiny(name, directory)
    tokenizer().save_pretrained(directory)
    return directory


def write_text(file: Path, *, rows: int = ROWS, seed: int = 0) -> Path:
    """Random lines, each of which fills one row: ``<s>``, the letters, ``</s>``."""
    draw = random.Random(seed)
    lines = ["".join(draw.choices("abcdefgh", k=LENGTH - 2)) for _ in range(rows)]
    file.write_text("\n".join(f'{{"text": "{line}"}}' for line in lines) + "\n")
    return file


def options(**changed: Any) -> surgery.TuneOptions:
    """Three steps over all the data, at a rate that moves a tiny model; every step logged."""
    usual: dict[str, Any] = {
        "steps": 3,
        "batch": ROWS,
        "learning_rate": 3e-3,
        "schedule": "constant",
        "warmup": 0.0,
        "held_out": 0.0,
        "length": LENGTH,
        "log_every": 1,
        "device": "cpu",
    }
    return surgery.TuneOptions(**usual | changed)


def tune(checkpoint: Path | str, out: Path, data: Path, **asked: Any) -> Report:
    """Tune; options of the run by their names, the rest as :func:`surgery.tune` takes it."""
    own = {key: asked.pop(key) for key in list(asked) if key in FREE}
    report = surgery.tune(checkpoint, out, data=data, options=options(**asked), **own)
    assert report is not None and report.tuning is not None
    return report


FREE = ("train", "preparation", "eval_data", "force", "resume", "progress")


def losses(report: Report) -> list[float]:
    """The loss of every step, without the penalty."""
    assert report.tuning is not None
    return [step.loss for step in report.tuning.steps]


@contextmanager
def trainers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[PartsTrainer]]:
    """Every trainer that runs meanwhile: its model is the one that was trained."""
    made: list[PartsTrainer] = []

    class Seen(PartsTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    with monkeypatch.context() as patch:
        patch.setattr("surgery.training.learn.PartsTrainer", Seen)
        yield made
