"""Looking at samples kept back while a model learns: their loss, and word error rate."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils.data import DataLoader

from surgery.evaluation.transcribe import transcribe
from surgery.evaluation.wer import word_errors
from surgery.training.losses import counted, on_model, summed_loss
from surgery.training.options import Settings
from surgery.training.tasks import Task

LONGEST = 64  # tokens a text: a model that learns badly repeats itself, and this bounds the time


class Watch:
    """Measures a model on what was kept back.

    Args:
        task: What it learns from; must have held-out samples.
        processor: Whisper's processor, or the tokenizer.
        settings: Samples at once; what is spoken; whether to transcribe.
    """

    def __init__(self, task: Task, processor: Any, settings: Settings) -> None:
        self.task, self.processor = task, processor
        self.language, self.batch = settings.options.language, settings.micro_batch
        self.recordings = task.recordings if settings.options.transcribe else ()

    @torch.no_grad()
    def __call__(
        self, model: Any, autocast: Callable[[], AbstractContextManager[Any]]
    ) -> dict[str, float]:
        """Return ``eval_loss`` in nats a label; of recordings ``eval_wer`` in %, of ``eval_words``.

        The mean is over labels, whatever the batches. The model is left in training mode where
        it was in it.
        """
        was_training = model.training
        model.eval()
        total, count = 0.0, 0
        loader = DataLoader(
            self.task.held_out,  # type: ignore[arg-type]  # there is one
            batch_size=self.batch,
            collate_fn=self.task.collate,
        )
        for items in loader:
            inputs = on_model(items, model)
            labels = inputs.pop("labels")
            with autocast():
                outputs = model(**inputs)
            total += float(summed_loss(outputs, labels))
            count += int(counted(outputs, labels))
        found = {"eval_loss": total / max(count, 1)}
        if self.recordings:
            said = [one.words or "" for one in self.recordings]
            heard = [one.audio() for one in self.recordings]
            with autocast():
                texts = transcribe(
                    model,
                    self.processor,
                    heard,
                    language=self.language,
                    batch=self.batch,
                    max_new_tokens=LONGEST,
                )
            errors = word_errors(said, texts, language=self.language)
            found |= {"eval_wer": 100 * errors.rate, "eval_words": errors.words}
        model.train(was_training)
        return found
