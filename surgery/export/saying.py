"""What our own runtime says of recordings, and what no runtime may say where they are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from surgery.evaluation.transcribe import generation_options

LONGEST = 32
"""Tokens of a recording that are compared: a damaged model may repeat itself up to its limit."""


def say(model: Any, features: Tensor) -> tuple[list[int], list[list[int]]]:
    """Return what our runtime is told first, and what it then says of each embedded recording.

    Greedily, without timestamps or other tokens that are no text. Tokens from the end of the text
    on are left out.
    """
    with torch.inference_mode():
        found = model.generate(
            features,
            attention_mask=torch.ones(features.shape[0], features.shape[-1]),
            return_dict_in_generate=True,
            output_scores=True,
            suppress_tokens=suppressed(model),
            **generation_options(model, max_new_tokens=longest(model)),
        )
    given = found.sequences.shape[1] - len(found.scores)
    rows = found.sequences.tolist()
    return rows[0][:given], [spoken(row[given:], ending(model)) for row in rows]


def longest(model: Any) -> int:
    """Return how many tokens of a recording are compared: at most what whisper.cpp says of one."""
    # It stops at half its positions and four less, and drops a text that has not ended by then.
    return max(1, min(LONGEST, int(model.config.max_target_positions) // 2 - 5))


def ending(model: Any) -> int:
    """Return the token that ends a text; the vocabulary's last where none is said to."""
    for settings in (model.generation_config, model.config):
        found = getattr(settings, "eos_token_id", None)
        first = found[0] if isinstance(found, list) and found else found
        if isinstance(first, int):
            return first
    return int(model.config.vocab_size) - 1


def suppressed(model: Any) -> list[int]:
    """Return the tokens that none of the runtimes may say: its own, and all that are no text."""
    generation, vocabulary = model.generation_config, model.config.vocab_size
    own = getattr(generation, "suppress_tokens", None) or []
    return sorted({*own, *range(ending(model) + 1, vocabulary)})


def spoken(tokens: Sequence[int], end: int) -> list[int]:
    """Return the tokens before the end of the text."""
    tokens = list(tokens)
    return tokens[: tokens.index(end)] if end in tokens else tokens
