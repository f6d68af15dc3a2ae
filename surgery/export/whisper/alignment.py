"""Which heads of a Whisper's decoder follow the audio: only those that it has.

Students keep their teacher's generation configuration, which names heads of layers that they do not
have (distil-whisper's do). If one of a list is not there, none of it speaks of this model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from surgery.architectures.config import Config
from surgery.checkpoint.directory import read_json
from surgery.checkpoint.disk import target_errors

KEY = "alignment_heads"
GENERATION = "generation_config.json"
FOREIGN = (
    "generation_config.json names alignment heads of layers or heads that the model does not have "
    "(its teacher's, most likely)"
)
"""Begins the note where they were left out."""
DEFAULT = "words are timed by all heads of the decoder's upper half, as where none are known"
"""Goes on, for a runtime that has this default."""


@dataclass(frozen=True)
class Alignment:
    """The heads that follow the audio.

    Attributes:
        heads: Layer and head of each, in order; none where they are not known.
        foreign: Whether a list was given that is another model's.
    """

    heads: list[tuple[int, int]] = field(default_factory=list)
    foreign: bool = False


def read_alignment(raw: Mapping[str, Any], layers: int, heads: int) -> Alignment:
    """Return what a configuration says of the heads that follow the audio.

    Args:
        raw: A generation configuration; older checkpoints have the list in config.json.
        layers: Layers of the decoder.
        heads: Heads of each.
    """
    listed = raw.get(KEY) or []
    known = [[layer, head] for layer, head in product(range(layers), range(heads))]
    if not isinstance(listed, list) or not all(pair in known for pair in listed):
        return Alignment(foreign=True)
    return Alignment(sorted({(int(layer), int(head)) for layer, head in listed}))


def upper_half(layers: int, heads: int) -> list[tuple[int, int]]:
    """Return all heads of a decoder's upper half: what other runtimes take where none are known."""
    return list(product(range(layers // 2, layers), range(heads)))


def drop_foreign(directory: Path, written: dict[str, Any], config: Config) -> str | None:
    """Take another model's heads out of what transformers reads; say so, if there were any.

    Args:
        directory: Where ``generation_config.json`` was written, if at all.
        written: What is to be written as ``config.json``; older checkpoints list heads there.
        config: The model's configuration.

    Raises:
        TargetError: It cannot be written.
    """
    path = directory / GENERATION
    generation = read_json(path) if path.is_file() else {}
    found = False
    for raw in (generation, written):
        if read_alignment(raw, config.decoder_layers, config.decoder_attention_heads).foreign:
            del raw[KEY]
            found = True
    if not found:
        return None
    if generation:
        with target_errors(path):
            text = json.dumps(generation, indent=2) + "\n"
            path.write_text(text, encoding="utf-8", newline="\n")
    return f"{FOREIGN}; they were left out, and words cannot be timed until some of its own are."
