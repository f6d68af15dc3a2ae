"""Every command that takes a folder says at its start what is in it and not used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from surgery_cli.main import app
from tests.engine.spoken import OTHER_TEXT, TEXT, save_clips, save_listener, save_spoken


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> None:
    """Three clips of which two are listed, and a folder of text with a table in it."""
    monkeypatch.chdir(tmp_path)
    save_listener(tmp_path / "whisper")
    save_spoken("llama", tmp_path / "llama")
    save_clips(tmp_path / "clips", range(3))
    listed = (tmp_path / "clips" / "transcripts.tsv").read_text().splitlines()
    (tmp_path / "clips" / "transcripts.tsv").write_text("\n".join(listed[:2]))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(TEXT)
    (tmp_path / "texts" / "b.csv").write_text(OTHER_TEXT)


def run(*words: str) -> Any:
    return CliRunner().invoke(app, words, env={"COLUMNS": "80"})


AUDIO, TEXTS = "does not list 1 of the 3", "and not: b.csv"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("evaluate whisper --data clips --resamples 5", AUDIO),
        ("absorb-decompose whisper --calibrate clips --no-trials --dry-run", AUDIO),
        ("split whisper --rank 2 --targets v --scope encoder --data clips -o out", AUDIO),
        ("tune whisper --train diagonal --data clips --steps 1 --batch 1 --no-transcribe", AUDIO),
        ("evaluate llama --data texts --resamples 5", TEXTS),
        ("absorb-decompose llama --calibrate texts --no-trials --dry-run", TEXTS),
        ("tune llama --train diagonal --data texts --steps 1 --batch 1", TEXTS),
    ],
)
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_what_a_folder_holds_and_a_run_leaves_out_is_told_once(
    words: str, told: str, form: tuple[str, ...]
) -> None:
    done = run(*words.split(), *form)
    assert done.exit_code == 0, done.output
    assert " ".join(done.stderr.split()).count(told) == 1
    assert told not in done.stdout
