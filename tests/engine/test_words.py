"""A token that the model has no embedding for is named before anything is run or written."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest

import surgery
from surgery import Calibrate, Lossless, Options, TuneOptions
from surgery.errors import CheckpointError
from surgery.evaluation.vocabulary import check_tokens, may_exceed
from tests.engine.spoken import OTHER_TEXT, TEXT, save_clips, save_listener, save_spoken

pytestmark = pytest.mark.usefixtures("no_pictures")

NEW = "S"
SAID = rf"(?s)no embedding for.*tokenizer of .*'{NEW}', token 48.*vocab_size = 48"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A tiny LLaMA whose tokenizer knows one token more than its embedding, and two texts."""
    letters = string.ascii_letters[: string.ascii_letters.index(NEW) + 1]
    save_spoken("llama", tmp_path / "source", letters=letters)
    (tmp_path / "new.txt").write_text(f"{TEXT}{NEW}{TEXT}")
    (tmp_path / "plain.txt").write_text(OTHER_TEXT)
    return tmp_path


def left(here: Path) -> list[str]:
    return sorted(path.name for path in here.iterdir())


def test_calibration_names_the_token(here: Path) -> None:
    before = left(here)
    with pytest.raises(CheckpointError, match=SAID):
        surgery.absorb_decompose(
            here / "source",
            here / "out",
            options=Options(calibrate=Calibrate(data=str(here / "new.txt"))),
        )
    assert left(here) == before


def test_measuring_names_the_token_before_anything_is_written(here: Path) -> None:
    before, lossless = left(here), Options(rule=Lossless())
    with pytest.raises(CheckpointError, match=SAID):
        surgery.absorb_decompose(
            here / "source", here / "out", options=lossless, data=here / "new.txt"
        )
    assert left(here) == before

    surgery.absorb_decompose(
        here / "source", here / "out", options=lossless, data=here / "plain.txt"
    )  # a text without it is no matter
    with pytest.raises(CheckpointError, match=SAID):
        surgery.verify(here / "source", here / "out", data=here / "new.txt")
    with pytest.raises(CheckpointError, match=SAID):
        surgery.evaluate([here / "source", here / "out"], here / "new.txt")
    assert surgery.evaluate(here / "source", here / "plain.txt").rows


@pytest.mark.parametrize("which", ["data", "eval_data"])
def test_tuning_names_the_token_before_anything_is_prepared(which: str, here: Path) -> None:
    before = left(here)
    given: dict[str, Any] = {"data": here / "plain.txt", which: here / "new.txt"}
    with pytest.raises(CheckpointError, match=SAID):
        surgery.tune(
            here / "source",
            here / "out",
            train="core",
            options=TuneOptions(steps=1, held_out=0.0),
            **given,
        )
    assert left(here) == before


def test_transcripts_that_a_whisper_has_no_tokens_for_are_named(tmp_path: Path) -> None:
    source = save_listener(tmp_path / "source")
    vocabulary = json.loads((source / "config.json").read_text())["vocab_size"]
    raw = json.loads((source / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    raw["added_tokens"].append({"id": vocabulary, "content": "<|new|>", "special": True, **flags})
    (source / "tokenizer.json").write_text(json.dumps(raw))
    clips = save_clips(tmp_path / "clips", range(2))
    file = clips / "transcripts.tsv"
    first, _, words = file.read_text().partition("\t")
    file.write_text(f"{first}\t<|new|>{words}")
    with pytest.raises(CheckpointError, match=rf"(?s)no embedding for.*{first}.*= {vocabulary}"):
        surgery.tune(
            source,
            tmp_path / "out",
            data=clips,
            train="core",
            options=TuneOptions(steps=1, held_out=0.0),
        )
    assert left(tmp_path) == ["clips", "source"]


class Words:
    name_or_path = "somewhere"

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0, "b": 9}

    def convert_ids_to_tokens(self, token: int) -> str:
        return {0: "a", 9: "b"}[token]


def test_only_a_tokenizer_that_knows_more_is_suspected() -> None:
    assert may_exceed(Words(), 9) and not may_exceed(Words(), 10)
    assert not may_exceed(Words(), None) and may_exceed(object(), 10)
    check_tokens([0, 8], 9, Words())
    check_tokens([], 9, Words())
    with pytest.raises(
        CheckpointError, match=r"(?s)tokenizer of somewhere.*'b', token 9, in line 3"
    ):
        check_tokens([0, 9], 9, Words(), "line 3")
    with pytest.raises(CheckpointError, match=r"(?s)tokenizer of object.*token 9"):
        check_tokens([9], 9, object())
