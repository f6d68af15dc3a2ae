"""What a Whisper writes of recordings whose words nobody knows, written once.

Several questions are asked of the same rows, and each teaches the decoder what it would write. As
long as no weight changes, that is the same text.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from surgery.evaluation.transcribe import TOKENS_PER_SECOND, generation_options

State = tuple[tuple[int, int], ...]
"""Which tensors a model computes with, and how often each was written to."""

_texts: WeakKeyDictionary[Any, tuple[State, dict[tuple[bytes, str], list[int]]]] = (
    WeakKeyDictionary()
)


def own_texts(
    model: Any,
    processor: Any,
    windows: Mapping[int, tuple[Tensor, float, str]],
    heard: Tensor,
    most: int,
) -> dict[int, list[int]]:
    """Return the tokens that a model writes of windows, greedily, without special ones.

    Args:
        model: A Whisper that writes.
        processor: Its processor.
        windows: Features, ``(bins, frames)``, seconds of sound, and what is spoken, by the
            window's row.
        heard: What the encoder makes of all rows, ``(windows, positions, width)``.
        most: How many tokens each may have at most; never more than its sound holds, since a text
            that repeats itself without end must not outweigh all others.
    """
    known = _known(model)
    keys = {row: (_digest(features), spoken) for row, (features, _, spoken) in windows.items()}
    new = [row for row, key in keys.items() if key not in known]
    if new:
        holds = {row: math.ceil(TOKENS_PER_SECOND * windows[row][1]) for row in new}
        languages = [windows[row][2] for row in new]
        texts = _generate(model, heard[new], languages, min(max(holds.values()), most))
        specials = set(processor.tokenizer.all_special_ids)
        for row, text in zip(new, texts, strict=True):
            own = [token for token in text if token not in specials]
            known[keys[row]] = own[: holds[row]]
    return {row: known[key] for row, key in keys.items()}


def _known(model: Any) -> dict[tuple[bytes, str], list[int]]:
    """Return what the model wrote since its weights changed last."""
    state = tuple(
        (id(each), 0 if each.is_inference() else each._version) for each in model.parameters()
    )
    before, known = _texts.get(model, (None, {}))
    if state != before:
        known = {}
        _texts[model] = state, known
    return known


def _digest(features: Tensor) -> bytes:
    numbers = features.detach().cpu().contiguous().view(torch.uint8).numpy()
    return hashlib.sha256(numbers.tobytes()).digest()


def _generate(model: Any, heard: Tensor, languages: Sequence[str], limit: int) -> list[list[int]]:
    """Write at most ``limit`` tokens from encoder outputs ``(windows, positions, width)``."""
    from transformers.modeling_outputs import BaseModelOutput

    options = generation_options(model, languages[0], limit)
    if len(set(languages)) > 1:
        options["language"] = list(languages)
    tokens: Tensor = model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=heard),
        # All of ones: nothing is to be guessed from the padding token.
        attention_mask=torch.ones(heard.shape[:2], dtype=torch.int64, device=heard.device),
        **options,
    )
    rows: list[list[int]] = tokens.tolist()
    return rows
