"""The small files beside CTranslate2's model.bin: what it and faster-whisper read.

``config.json`` (tokens never said, heads that follow the audio), ``vocabulary.json`` (every
token), ``tokenizer.json`` and ``preprocessor_config.json`` (faster-whisper would otherwise ask a
hub for the tokenizer of another model, and assume 80 mel bins).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from surgery.architectures.config import Config
from surgery.checkpoint.directory import read_json
from surgery.checkpoint.disk import target_errors
from surgery.checkpoint.transaction import Transaction
from surgery.errors import CheckpointError
from surgery.export.reference import FRAMES_PER_SECOND
from surgery.export.whisper.alignment import (
    DEFAULT,
    FOREIGN,
    read_alignment,
    upper_half,
)
from surgery.export.whisper.form import embedding
from surgery.stored.stored import Stored

TOKENIZER = "tokenizer.json"
PREPROCESSOR = "preprocessor_config.json"
NO_TIMESTAMPS = "<|notimestamps|>"
START = "<|startoftranscript|>"
REQUIRED = ("<|endoftext|>", START, NO_TIMESTAMPS)
"""Tokens that CTranslate2 looks up by name."""
FILTERS = "encoder.conv1.weight"
STEP = 0.02  # seconds between two timestamps


def write_files(stored: Stored, transaction: Transaction) -> list[str]:
    """Write every small file.

    Returns:
        Notes for the user.

    Raises:
        CheckpointError: The checkpoint has no tokenizer, or none of Whisper's.
        TargetError: They cannot be written.
    """
    raw = stored.source.config
    with _sidecars(stored) as directory:
        tokens = _tokens(directory, stored)
        generation = _optional(directory / "generation_config.json")
        files: dict[str, Any] = {
            "config.json": model_config(stored.config, generation or raw, tokens),
            "vocabulary.json": vocabulary(tokens, stored.source.infos[embedding(stored)].shape[0]),
            PREPROCESSOR: preprocessor(directory, stored),
        }
        for name, content in files.items():
            transaction.write_text(name, json.dumps(content, indent=2, sort_keys=True) + "\n")
        target = transaction.staging / TOKENIZER
        with target_errors(target):
            shutil.copyfile(directory / TOKENIZER, target)
        foreign = read_alignment(generation or raw, *_heads(stored.config)).foreign
        return [f"{FOREIGN}: {DEFAULT}."] if foreign else []


def model_config(
    config: Config, known: Mapping[str, Any], tokens: Mapping[str, int]
) -> dict[str, Any]:
    """Return CTranslate2's ``config.json``.

    Args:
        config: Says how many layers and heads there are.
        known: Its generation configuration; older checkpoints have all that in config.json.
        tokens: Ids by token.
    """
    # Where none are known, as CTranslate2's own converter does.
    heads = read_alignment(known, *_heads(config)).heads or upper_half(*_heads(config))
    languages = known.get("lang_to_id")

    def suppressed(key: str) -> list[int]:
        return [number for number in known.get(key) or [] if 0 <= number < config.vocab_size]

    return {
        "alignment_heads": [list(pair) for pair in heads],
        "lang_ids": sorted(languages.values()) if languages else _languages(tokens),
        "suppress_ids": suppressed("suppress_tokens"),
        "suppress_ids_begin": suppressed("begin_suppress_tokens"),
    }


def vocabulary(tokens: Mapping[str, int], size: int) -> list[str]:
    """Return the token of every id; timestamps that a tokenizer leaves out are put in."""
    by_id = {number: token for token, number in tokens.items()}
    first = tokens[NO_TIMESTAMPS] + 1
    return [
        by_id.get(
            number, f"<|{(number - first) * STEP:.2f}|>" if number >= first else f"<|{number}|>"
        )
        for number in range(size)
    ]


def preprocessor(directory: Path, stored: Stored) -> dict[str, Any]:
    """Return what the feature extractor needs, from its own file or from the model's shape."""
    found = _optional(directory / PREPROCESSOR)
    if not found:  # where all of a processor is in one file
        found = _optional(directory / "processor_config.json").get("feature_extractor", {})
    if found:
        return dict(found)
    seconds = 2 * stored.config.max_source_positions // FRAMES_PER_SECOND
    return {
        "chunk_length": seconds,
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": _shape(stored, FILTERS)[1],
        "hop_length": 160,  # samples: 10 ms
        "n_fft": 400,  # samples: 25 ms
        "n_samples": 16000 * seconds,
        "nb_max_frames": FRAMES_PER_SECOND * seconds,
        "sampling_rate": 16000,  # Hz
    }


@contextmanager
def _sidecars(stored: Stored) -> Iterator[Path]:
    """Yield a directory with the checkpoint's small files and a ``tokenizer.json``.

    Raises:
        CheckpointError: There is no tokenizer.
    """
    with tempfile.TemporaryDirectory(prefix="surgery-") as name:
        directory = Path(name)
        stored.source.write_sidecars(directory)
        if not (directory / TOKENIZER).is_file():
            _build_tokenizer(directory, stored)
        yield directory


def _build_tokenizer(directory: Path, stored: Stored) -> None:
    """Make ``tokenizer.json`` of the files of a slow tokenizer.

    Raises:
        CheckpointError: They are not there, or cannot be read.
    """
    from transformers import WhisperTokenizer

    where = stored.source.directory or stored.source.name
    hint = "put the original's tokenizer files beside the weights"
    if not (directory / "vocab.json").is_file() or not (directory / "merges.txt").is_file():
        raise CheckpointError(
            "The checkpoint has no tokenizer, and CTranslate2 needs the names of its tokens",
            where=where,
            expected=f"{TOKENIZER}, or vocab.json and merges.txt",
            hint=hint,
        )
    try:
        made = WhisperTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            "The checkpoint's tokenizer cannot be read",
            where=where,
            found=f"{type(error).__name__}: {error}",
            hint=hint,
        ) from error
    made.backend_tokenizer.save(str(directory / TOKENIZER))


def _tokens(directory: Path, stored: Stored) -> dict[str, int]:
    """Return the id of every token.

    Raises:
        CheckpointError: The tokenizer cannot be read, or is none of Whisper's.
    """
    from tokenizers import Tokenizer

    where = stored.source.directory or stored.source.name
    try:
        tokens: dict[str, int] = Tokenizer.from_file(str(directory / TOKENIZER)).get_vocab()
    except Exception as error:  # tokenizers raises nothing more special
        raise CheckpointError(
            f"{TOKENIZER} cannot be read", where=where, found=f"{type(error).__name__}: {error}"
        ) from error
    if missing := [token for token in REQUIRED if token not in tokens]:
        raise CheckpointError(
            "The tokenizer is none of Whisper's",
            where=where,
            found=f"no token {missing[0]}",
            hint="put the original's tokenizer files beside the weights",
        )
    return tokens


def _languages(tokens: Mapping[str, int]) -> list[int]:
    """Return the ids between the start and the first task: the languages."""
    last = tokens.get("<|translate|>", 0)
    return sorted(number for number in tokens.values() if tokens[START] < number < last)


def _heads(config: Config) -> tuple[int, int]:
    return config.decoder_layers, config.decoder_attention_heads


def _shape(stored: Stored, name: str) -> tuple[int, ...]:
    return tuple(stored.source.infos[stored.claims.prefix + name].shape)


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
