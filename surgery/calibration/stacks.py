"""The towers of a model with their input, to be led through layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from surgery.calibration.data import CalibrationData
from surgery.calibration.speech import SpeechBatch, decoder_tokens, speech_batches, teach
from surgery.calibration.text import text_batches, token_windows_of
from surgery.calibration.witness import Scoped, evenly, some_windows
from surgery.evaluation.layers import stack

REMEMBERED = 1 << 28
"""Numbers of hidden states that are kept at once (1 GB in float32), each time they are."""
BATCH = 4


SiteT = TypeVar("SiteT", bound=Scoped)


@dataclass(frozen=True, eq=False)
class Stack(Generic[SiteT]):
    """One tower of a model and its input.

    Attributes:
        layers: First to last.
        sites: Its blocks that are cut, in the order in which they run.
        runs: Each runs the tower on one batch.
        weights: What every position of each batch counts, (sequences, positions), float64.
    """

    layers: Sequence[nn.Module]
    sites: Sequence[SiteT]
    runs: Sequence[Callable[[], Any]]
    weights: Sequence[Tensor]


@dataclass(frozen=True)
class Hearing:
    """How recordings are heard; see :func:`surgery.calibration.collect.collect`."""

    padding_weight: float
    varied: bool
    language: str


@torch.no_grad()
def stacks_of(
    model: Any,
    processor: Any,
    data: CalibrationData,
    sites: Sequence[SiteT],
    hearing: Hearing,
) -> list[Stack[SiteT]]:
    """Return the towers that have some blocks, in the order in which they run.

    Args:
        model: A stock transformers model, in evaluation mode.
        processor: Whisper's processor, or the tokenizer of a language model.
        data: What it is run on: as much of it as :data:`REMEMBERED` lets be.
        sites: The blocks.
        hearing: Settings of recordings.
    """
    if data.kind == "audio":
        return _speech(model, processor, data, sites, hearing)
    windows = token_windows_of(model, processor, data.documents)
    some = some_windows(windows, REMEMBERED // int(model.config.hidden_size))
    batches = list(text_batches(some, BATCH))
    runs: list[Callable[[], Any]] = [partial(each.run, model.base_model) for each in batches]
    return [Stack(stack(model), sites, runs, [each.weights.queries for each in batches])]


def _speech(
    model: Any,
    processor: Any,
    data: CalibrationData,
    sites: Sequence[SiteT],
    hearing: Hearing,
) -> list[Stack[SiteT]]:
    config = model.config
    most = max(1, REMEMBERED // (int(config.max_source_positions) * int(config.d_model)))
    batches = list(
        speech_batches(
            model,
            processor,
            evenly(data.recordings, most),
            padding_weight=hearing.padding_weight,
            batch=BATCH,
            varied=hearing.varied,
        )
    )
    hear: list[Callable[[], Any]] = [
        partial(model.get_encoder(), each.features) for each in batches
    ]
    own = [site for site in sites if site.scope == "encoder"]
    frames = [each.frames for each in batches]
    stacks = [Stack(stack(model.get_encoder()), own, hear, frames)] if own else []
    others = [site for site in sites if site.scope != "encoder"]
    if not others:
        return stacks

    def taught(batch: SpeechBatch) -> tuple[Tensor, Tensor]:
        heard = model.get_encoder()(batch.features).last_hidden_state
        return decoder_tokens(model, processor, batch, heard, hearing.language)

    told = [taught(each) for each in batches]
    tell: list[Callable[[], Any]] = [
        partial(_tell, model, each, tokens) for each, (tokens, _) in zip(batches, told, strict=True)
    ]
    weights = [counted for _, counted in told]
    return [*stacks, Stack(stack(model.get_decoder()), others, tell, weights)]


def _tell(model: Any, batch: SpeechBatch, tokens: Tensor) -> None:
    heard = model.get_encoder()(batch.features).last_hidden_state
    teach(model.base_model, heard, tokens)
