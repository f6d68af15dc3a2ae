"""Run a model over calibration data and return what its attention blocks saw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from surgery.architectures.base import AttentionSite
from surgery.architectures.known import input_of
from surgery.calibration.data import CalibrationData
from surgery.calibration.hooks import Recorder
from surgery.calibration.moments import Moments
from surgery.calibration.speech import count_windows, hear, prompt, speech_batches
from surgery.calibration.text import read, token_windows_of
from surgery.errors import UsageError
from surgery.evaluation.transcribe import AUTO
from surgery.events import Event, Progress, ignore

STAGE = "Calibrating"


def collect(
    model: Any,
    sites: Sequence[AttentionSite],
    data: CalibrationData,
    processor: Any,
    *,
    padding_weight: float = 1.0,
    batch: int = 4,
    progress: Progress = ignore,
    varied: bool = False,
    language: str = "en",
    context: int | None = None,
) -> dict[str, Moments]:
    """Return the second moments of every block by its path.

    The model runs as it is, without dropout, on its own device; float32 weights are advised.
    Whisper's encoder blocks need its encoder only. For its decoder the words of the recordings
    are taught, or else what the model itself writes.

    Args:
        model: A stock transformers model of a known family, dense.
        sites: The blocks; at least one.
        data: What to run it on.
        processor: Whisper's processor, or the tokenizer of a language model.
        padding_weight: Weight of a frame of silence that fills up a Whisper window, 0 to 1,
            as query, key and context alike; a frame of the recording weighs 1. A padding token
            of a language model weighs nothing.
        batch: Windows at once.
        progress: Receives one event a batch; the unit is a window.
        varied: Vary the recordings (see :mod:`surgery.calibration.variations`).
        language: What is spoken, for a multilingual Whisper's decoder.
        context: Tokens a window of text; by default the model's context, at most 2048.

    Raises:
        UsageError: An argument is out of range, or model, blocks and data do not fit.
        SurgeryError: A recording cannot be read, or a block computed NaN or infinity.
    """
    if not (math.isfinite(padding_weight) and 0 <= padding_weight <= 1):
        raise UsageError("A weight must lie between 0 and 1.", found=padding_weight)
    if batch < 1 or not sites:
        raise UsageError("Calibration needs a batch and a block.", found=f"{batch}, {len(sites)}")
    expected = input_of(model.config.model_type)
    speech = expected == "audio"
    if data.kind != expected:
        raise UsageError(
            "The calibration data does not fit the model.",
            where=data.name,
            found=data.kind,
            expected=expected,
        )
    with _evaluating(model), Recorder(model, sites) as recorder:
        if speech:
            decoder = any(site.scope != "encoder" for site in sites)
            if decoder:
                _check_decoder(model, language)
            total = count_windows(data.recordings, processor)
            batches = speech_batches(
                model,
                processor,
                data.recordings,
                padding_weight=padding_weight,
                batch=batch,
                varied=varied,
            )
            steps = hear(recorder, model, processor, batches, decoder=decoder, language=language)
        else:
            windows = token_windows_of(model, processor, data.documents, context=context)
            total = len(windows)
            steps = read(recorder, model, windows, batch)
        _watch(steps, total, progress)
    return recorder.moments()


def _check_decoder(model: Any, language: str) -> None:
    """Refuse what the decoder cannot be run on, before any work."""
    if not hasattr(model, "generate"):
        raise UsageError(
            "This Whisper has no head to write words with, so its decoder cannot be calibrated.",
            where=type(model).__name__,
            hint="cut its encoder alone (--scope encoder), or decide by weights (--by-weights)",
        )
    if language != AUTO:
        prompt(model, language)


def _watch(steps: Iterable[int], total: int, progress: Progress) -> None:
    """Take all steps; ``total`` may turn out a little wrong, as recordings are cut at pauses."""
    done = 0
    progress(Event(STAGE, done, total))
    for windows in steps:
        done += windows
        total = max(total, done)
        progress(Event(STAGE, done, total))
    if done < total:
        progress(Event(STAGE, done, done))


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Switch dropout and gradients off; leave the model as it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
