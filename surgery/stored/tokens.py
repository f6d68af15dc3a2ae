"""The tokens of a checkpoint: its tokenizer, and what of it configurations need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.architectures.vocabulary import ROWS, by_token
from surgery.checkpoint.directory import read_json
from surgery.errors import CheckpointError, UnsupportedModelError
from surgery.stored.dense import words_of
from surgery.stored.shallower import GENERATION
from surgery.stored.stored import Stored
from surgery.vocabulary.files import TOKENIZER
from surgery.vocabulary.identifiers import KNOWN, LANGUAGES, NO_TIMESTAMPS, leaves, needed
from surgery.vocabulary.tokenizer import Vocabulary

NAMING = ("tokenizer_config.json", "special_tokens_map.json")
"""Files that name special tokens: one that was gone would be added anew, behind all rows."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of a checkpoint.

    Attributes:
        vocabulary: Its tokenizer's.
        rows: How many rows its embedding has.
        tensors: The tensors with a row for every token.
        standing: Rows that stay in any case.
        languages: Tokens of what may be spoken, by their names, where a configuration says it.
        config: config.json with every id said that its absence stands for.
    """

    vocabulary: Vocabulary
    rows: int
    tensors: tuple[str, ...]
    standing: frozenset[int]
    languages: Mapping[str, int]
    config: Mapping[str, Any]


def read_tokens(stored: Stored) -> Tokens:
    """Read the tokenizer of a checkpoint; one of another form is turned into a tokenizer.json.

    Raises:
        CheckpointError: There is none, or it has tokens that the model has no rows for.
        UnsupportedModelError: It cannot be trimmed, or the model reads no tokens.
    """
    source = stored.source
    names = by_token(stored.family, stored.config, stored.claims, source.infos)
    if not names:
        raise UnsupportedModelError("This model has no vocabulary", where=source.name)
    rows = int(source.infos[names[0]].shape[0])
    with words_of(source) as directory:
        vocabulary = Vocabulary(read_tokenizer(directory), where=f"{source.name}/{TOKENIZER}")
        generation = _optional(directory / GENERATION)
        texts = (leaves(_optional(directory / file)) for file in NAMING)
        named = {one for some in texts for one in some if isinstance(one, str)}
    if max(vocabulary.names) >= rows:
        last = max(vocabulary.names)
        raise CheckpointError(
            "The tokenizer has a token that the model has no embedding for",
            where=f"{source.name}/{TOKENIZER}",
            found=f"token {last}, {vocabulary.names[last]!r}",
            expected=f"tokens below {ROWS} = {rows}",
            hint="use the tokenizer that belongs to these weights",
        )
    config = effective(source.config, rows)
    standing = set(vocabulary.always)
    for file, raw in {"config.json": config, GENERATION: generation}.items():
        standing |= needed(raw, where=f"{source.name}/{file}")
    standing |= {vocabulary.ids[name] for name in named & vocabulary.ids.keys()}
    begin = generation.get(NO_TIMESTAMPS)
    if isinstance(begin, int):  # some tokenizers have no names for what follows
        standing |= set(range(begin, rows))
    languages = generation.get(LANGUAGES) or {}
    stay = frozenset(vocabulary.closed(standing))
    return Tokens(vocabulary, rows, names, stay, languages, config)


def read_tokenizer(directory: Path) -> dict[str, Any]:
    """Return a directory's tokenizer.json, made of its other files where there is none.

    Raises:
        CheckpointError: Nothing there can be read.
    """
    if (directory / TOKENIZER).is_file():
        return read_json(directory / TOKENIZER)
    from transformers import AutoTokenizer

    try:
        made = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        raw: dict[str, Any] = json.loads(made.backend_tokenizer.to_str())
    except Exception as error:  # tokenizers raises bare ones
        raise CheckpointError(
            "The checkpoint has no tokenizer that can be read",
            where=directory,
            found=f"{type(error).__name__}: {error}",
            expected=f"{TOKENIZER}, or the files of another form of it",
            hint="put the original's tokenizer files beside its weights",
        ) from error
    return raw


def effective(raw: dict[str, Any], rows: int) -> dict[str, Any]:
    """Return a config.json in which every id is said that its absence stands for.

    A default that is no row of the embedding means nothing, and stays away.
    """
    from surgery.runtime.configuration import config_class  # late: it imports transformers

    whole = config_class(raw).from_dict(dict(raw))
    made = dict(raw)
    for key in KNOWN:
        value = getattr(whole, key, None)
        if key not in raw and value is not None and _fits(value, rows):
            made[key] = value
    return made


def _fits(value: Any, rows: int) -> bool:
    some = value if isinstance(value, list) else [value]
    return bool(some) and all(isinstance(one, int) and 0 <= one < rows for one in some)


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
