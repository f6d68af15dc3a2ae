"""Every kind of calibration data is understood, and what is wrong is said with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from surgery.calibration.data import open_data
from surgery.calibration.statistics import CalibratedOn
from surgery.errors import SurgeryError, UsageError
from surgery.evaluation.fingerprints import data_fingerprints, overlap
from surgery.evaluation.rows import Document
from tests.calibration.oracle import Letters

CHAT = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hi."}]


def write_rows(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    return path


def test_rows_of_every_form_are_documents(tmp_path: Path) -> None:
    rows = (
        {"text": "a\u2028b", "id": 3},
        {"prompt": "2+2=", "completion": "4"},
        {"messages": CHAT},
    )
    path = write_rows(tmp_path / "rows.jsonl", *rows)
    data = open_data(path, "text")
    assert [document.text for document in data.documents] == ["a\u2028b", "2+2=4", "Hello?\nHi."]
    assert data.documents[2].messages == (("user", "Hello?"), ("assistant", "Hi."))
    assert len(data) == 3 and len(open_data(path, "text", 2)) == 2
    assert data.name == f"{tmp_path.name}/rows.jsonl"


def test_a_conversation_is_marked_up_by_the_template_where_there_is_one() -> None:
    document = Document("Hi.", (("user", "Hi."),))
    plain = Letters()("user: Hi.")["input_ids"]
    assert document.tokens(Letters()) == plain

    class Chatty(Letters):
        chat_template = "<s>…"

        def apply_chat_template(self, turns: Any, tokenize: bool) -> str:
            assert turns == [{"role": "user", "content": "Hi."}] and not tokenize
            return "<u>Hi.</u>"

    expected = Letters()("<u>Hi.</u>", add_special_tokens=False)["input_ids"]
    assert document.tokens(Chatty()) == expected  # no second beginning-of-text token


def test_a_folder_of_text_is_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_text("plain\ntext")
    write_rows(tmp_path / "deep" / "a.jsonl", {"text": "row"})
    (tmp_path / "notes.md").write_text("not read")
    found = [document.text for document in open_data(tmp_path, "text").documents]
    assert found == ["plain\ntext", "row"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{", "no JSON"),
        ("[1]", "a list"),
        ('{"prompt": "a"}', "prompt"),
        ('{"text": 5}', "text"),
        ('{"text": " "}', "white space"),
        ('{"messages": []}', "messages"),
        ('{"messages": [{"role": "user"}]}', "messages"),
        ('{"messages": ["hello"]}', "messages"),
    ],
)
def test_a_malformed_row_is_named_with_its_line(tmp_path: Path, line: str, found: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "good"}) + "\n\n" + line + "\n")
    with pytest.raises(SurgeryError, match=rf"(?s)rows\.jsonl, line 3.*{found}"):
        open_data(path, "text")


def test_what_is_no_such_data_is_refused(tmp_path: Path) -> None:
    for kind in ("text", "audio"):
        with pytest.raises(SurgeryError):
            open_data(tmp_path / "nowhere", kind)
        with pytest.raises(SurgeryError):
            open_data(tmp_path, kind)
        with pytest.raises(UsageError, match="at least one"):
            open_data(tmp_path, kind, 0)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(SurgeryError, match="no rows"):
        open_data(empty, "text")
    with pytest.raises(SurgeryError, match="no recording"):
        open_data(empty, "audio")
    with pytest.raises(SurgeryError, match="reads text"):
        open_data(tmp_path / "a.wav", "text")


def test_a_recording_is_known_again_wherever_it_lies(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, 0.1 * random.standard_normal(4_000), 16_000)
    (tmp_path / "elsewhere").mkdir()
    soundfile.write(
        tmp_path / "elsewhere" / "c.flac", soundfile.read(tmp_path / "b.wav")[0], 16_000
    )
    data = open_data(tmp_path, "audio")
    evaluated = data_fingerprints(tmp_path / "elsewhere", "audio")
    assert overlap(CalibratedOn.of(data).samples, evaluated).shared == 1
    assert overlap(CalibratedOn.of(open_data(tmp_path, "audio", 1)).samples, evaluated).shared == 0


def test_a_story_is_known_again_in_rows_and_in_a_text_file(tmp_path: Path) -> None:
    story = "Once upon a time there was a little boy named Ben."
    path = write_rows(tmp_path / "rows.jsonl", {"messages": [{"role": "user", "content": story}]})
    (tmp_path / "test.txt").write_text(f"Something else that is long enough.\n{story}\n")
    record = CalibratedOn.of(open_data(path, "text"))
    assert overlap(record.samples, data_fingerprints(tmp_path / "test.txt", "text")).shared == 1
