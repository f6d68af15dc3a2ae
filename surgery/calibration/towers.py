"""The towers of a model with calibration data at their feet, to be run one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from surgery.calibration.data import CalibrationData
from surgery.calibration.speech import SpeechBatch, decoder_tokens, speech_batches, teach
from surgery.calibration.text import text_batches, token_windows_of
from surgery.calibration.witness import evenly, some_windows
from surgery.evaluation.layers import stack

REMEMBERED = 1 << 28
"""Numbers of hidden states that are kept at once (1 GB in float32)."""


@dataclass(frozen=True, eq=False)
class Tower:
    """One stack of layers and its input.

    Attributes:
        name: ``encoder`` or ``decoder``.
        layers: First to last.
        runs: Each runs the tower on one batch.
        weights: What every position of each batch counts, (sequences, positions), float64, on the
            CPU.
    """

    name: str
    layers: Sequence[nn.Module]
    runs: Sequence[Callable[[], Any]]
    weights: Sequence[Tensor]


@dataclass(frozen=True)
class Hearing:
    """How recordings are heard; see :func:`speech_towers`."""

    padding_weight: float = 1.0
    varied: bool = False
    language: str = "en"


def towers_of(
    model: Any,
    data: CalibrationData,
    processor: Any,
    hearing: Hearing,
    *,
    decoder: bool,
    remembered: int = REMEMBERED,
) -> list[Tower]:
    """Return the towers of any model, in the order in which they run.

    Args:
        model: A stock model, in evaluation mode.
        data: What it is run on.
        processor: Whisper's processor, or the tokenizer of a text model.
        hearing: Settings of recordings.
        decoder: Whether a Whisper's decoder is wanted.
        remembered: Numbers of hidden states at most, which bound how much is read or heard.
    """
    if data.kind == "text":
        return [text_tower(model, data, processor, "decoder", remembered=remembered)]
    return speech_towers(
        model,
        data,
        processor,
        decoder=decoder,
        padding_weight=hearing.padding_weight,
        varied=hearing.varied,
        language=hearing.language,
        remembered=remembered,
    )


def text_tower(
    model: Any,
    data: CalibrationData,
    tokenizer: Any,
    name: str,
    *,
    batch: int = 4,
    context: int | None = None,
    remembered: int = REMEMBERED,
) -> Tower:
    """Return the one tower of a model of text.

    A position counts once, where it is a query (see :class:`surgery.calibration.text.TextBatch`),
    padding not at all.

    Args:
        model: A stock model, in evaluation mode.
        data: Documents.
        tokenizer: Its tokenizer.
        name: ``encoder`` or ``decoder``, as its sites are scoped.
        batch: Windows at once.
        context: Tokens a window; by default the model's, at most 2048.
        remembered: Of more windows than these numbers, some are taken, spread over all.

    Raises:
        UsageError: ``context`` does not fit the model.
    """
    windows = token_windows_of(model, tokenizer, data.documents, context=context)
    some = some_windows(windows, remembered // int(model.config.hidden_size))
    batches = list(text_batches(some, batch))
    runs = [partial(each.run, model.base_model) for each in batches]
    return Tower(name, stack(model), runs, [each.weights.queries for each in batches])


def speech_towers(
    model: Any,
    data: CalibrationData,
    processor: Any,
    *,
    decoder: bool,
    padding_weight: float = 1.0,
    batch: int = 4,
    varied: bool = False,
    language: str = "en",
    remembered: int = REMEMBERED,
) -> list[Tower]:
    """Return Whisper's encoder, and its decoder where wanted.

    Args:
        model: A stock Whisper, in evaluation mode; for its decoder one that writes words.
        data: Recordings.
        processor: Its processor.
        decoder: Whether the decoder's tower is wanted.
        padding_weight: Weight of a frame of silence that fills up a window.
        batch: Windows at once.
        varied: Vary the recordings (see :mod:`surgery.calibration.variations`).
        language: What is spoken, for a multilingual model's decoder.
        remembered: Of more recordings than fill these numbers, some are taken, spread over all.
    """
    positions, width = int(model.config.max_source_positions), int(model.config.d_model)
    with torch.no_grad():
        batches = list(
            speech_batches(
                model,
                processor,
                evenly(data.recordings, max(1, remembered // (positions * width))),
                padding_weight=padding_weight,
                batch=batch,
                varied=varied,
            )
        )
        encoder = model.get_encoder()
        hear = [partial(encoder, each.features) for each in batches]
        frames = [each.frames for each in batches]
        towers = [Tower("encoder", stack(encoder), hear, frames)]
        if not decoder:
            return towers
        taught = [
            decoder_tokens(
                model, processor, each, encoder(each.features).last_hidden_state, language
            )
            for each in batches
        ]
    tell = [
        partial(_tell, model, each, tokens)
        for each, (tokens, _) in zip(batches, taught, strict=True)
    ]
    weights = [counted for _, counted in taught]
    return [*towers, Tower("decoder", stack(model.get_decoder()), tell, weights)]


def _tell(model: Any, batch: SpeechBatch, tokens: Tensor) -> None:
    teach(model.base_model, model.get_encoder()(batch.features).last_hidden_state, tokens)
