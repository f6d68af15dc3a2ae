"""Every file and key that names a token by its id: numbered anew, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from surgery.errors import CheckpointError
from surgery.vocabulary.files import rewrite_files
from surgery.vocabulary.identifiers import needed, renumbered
from surgery.vocabulary.tokenizer import Vocabulary
from tests.vocabulary.tokenizers_of import raw_tokenizer

NUMBERS = {0: 0, 3: 1, 7: 2, 9: 3}


def test_every_known_key_follows() -> None:
    raw = {
        "eos_token_id": [3, 9],
        "bos_token_id": 0,
        "pad_token_id": None,
        "suppress_tokens": [3, 5, 7],
        "begin_suppress_tokens": None,
        "bad_words_ids": [[3, 7], [3, 5]],
        "sequence_bias": [[[3, 7], 1.5], [[5], 2.0]],
        "forced_decoder_ids": [[1, None], [2, 9]],
        "lang_to_id": {"<|en|>": 3, "<|fr|>": 7, "<|xx|>": 5},
        "task_to_id": {"transcribe": 9},
        "task_specific_params": {"summarization": {"forced_bos_token_id": 7}},
        "max_new_tokens": 7,
        "id2label": {"7": "seven"},
        "max_initial_timestamp_index": 7,
    }
    assert renumbered(raw, NUMBERS, gone=frozenset(["<|fr|>"]), where="x") == {
        **raw,
        "eos_token_id": [1, 3],
        "suppress_tokens": [1, 2],
        "bad_words_ids": [[1, 2]],
        "sequence_bias": [[[1, 2], 1.5]],
        "forced_decoder_ids": [[1, None], [2, 3]],
        "lang_to_id": {"<|en|>": 1},
        "task_to_id": {"transcribe": 3},
        "task_specific_params": {"summarization": {"forced_bos_token_id": 2}},
    }
    assert needed(raw, where="x") == {0, 3, 7, 9}


@pytest.mark.parametrize(
    ("key", "value"), [("image_token_id", 7), ("stop_ids", [7]), ("sink_tokens", {"a": 7})]
)
def test_a_key_that_may_hold_ids_and_is_not_known_is_refused(key: str, value: Any) -> None:
    for read in (
        lambda raw: renumbered(raw, NUMBERS, where="x"),
        lambda raw: needed(raw, where="x"),
    ):
        with pytest.raises(CheckpointError, match=key):
            read({"deeper": {key: value}})


def test_a_token_that_is_needed_does_not_leave_unnoticed() -> None:
    with pytest.raises(CheckpointError, match="eos_token_id names a token"):
        renumbered({"eos_token_id": 5}, NUMBERS, where="x")


@pytest.fixture
def directory(tmp_path: Path) -> tuple[Path, Vocabulary]:
    vocabulary = Vocabulary(raw_tokenizer("byte-level"), where="x")
    model = vocabulary.raw["model"]
    files = {
        "tokenizer.json": vocabulary.raw,
        "vocab.json": model["vocab"],
        "added_tokens.json": {"<s>": 1},
        "tokenizer_config.json": {
            "bos_token": "<s>",
            "extra_special_tokens": ["<s>", "</s>"],
            "added_tokens_decoder": {"1": {"content": "<s>"}, "2": {"content": "</s>"}},
        },
        "special_tokens_map.json": {"additional_special_tokens": ["<s>", "</s>"]},
        "generation_config.json": {"eos_token_id": 2},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    lines = [" ".join(one) for one in model["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n")
    (tmp_path / "tokenizer.model").write_bytes(b"stale")
    return tmp_path, vocabulary


def test_no_file_is_left_that_says_what_was(directory: tuple[Path, Vocabulary]) -> None:
    place, vocabulary = directory
    kept = vocabulary.always | vocabulary.closed([400])
    numbers = {old: new for new, old in enumerate(sorted(kept))}
    removed = rewrite_files(place, vocabulary, numbers, {2: "<gone>"}, where="x")
    assert removed == ["tokenizer.model"]
    assert not (place / "tokenizer.model").exists()

    def read(name: str) -> Any:
        return json.loads((place / name).read_text())

    made = Vocabulary(read("tokenizer.json"), where="x")
    assert made.names[2] == "<gone>"
    assert read("vocab.json") == made.raw["model"]["vocab"]
    assert read("added_tokens.json") == {"<s>": 1}
    assert read("tokenizer_config.json") == {
        "bos_token": "<s>",
        "extra_special_tokens": ["<s>", "<gone>"],
        "added_tokens_decoder": {"1": {"content": "<s>"}, "2": {"content": "<gone>"}},
    }
    assert read("special_tokens_map.json") == {"additional_special_tokens": ["<s>", "<gone>"]}
    lines = (place / "merges.txt").read_text().splitlines()
    assert lines == ["#version: 0.2", *(" ".join(one) for one in made.raw["model"]["merges"])]


def test_a_stale_table_is_refused(directory: tuple[Path, Vocabulary]) -> None:
    place, vocabulary = directory
    (place / "vocab.json").write_text('{"a": 0}')
    numbers = {old: new for new, old in enumerate(sorted(vocabulary.always))}
    with pytest.raises(CheckpointError, match="say different things"):
        rewrite_files(place, vocabulary, numbers, {}, where="x")
