"""``verify`` without data plays speech to a Whisper, and says whether the result knows it."""

from __future__ import annotations

from pathlib import Path

import pytest

import surgery
from surgery.calibration.dealing import deal
from surgery.checkpoint.resolve import resolve
from surgery.engine.measure.own_speech import HELD_OUT, IN_SAMPLE, NAME, own_speech
from surgery.engine.measure.shipped import shipped_data
from tests.engine.spoken import save_listener

FRACTION = surgery.Remove(0.2)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> Path:
    monkeypatch.chdir(tmp_path)
    save_listener(tmp_path / "whisper")
    return tmp_path


@pytest.mark.parametrize(
    ("calibrate", "known"),
    [
        (None, ""),
        (surgery.Calibrate("shipped", varied=False), f", {HELD_OUT}"),
        (surgery.Calibrate("shipped", samples=4, varied=False), f", {IN_SAMPLE}"),
    ],
    ids=["by weights", "as shipped", "on some of it"],
)
def test_a_whisper_hears_speech_and_what_it_knows_is_said(
    place: Path, calibrate: surgery.Calibrate | None, known: str
) -> None:
    options = surgery.Options(FRACTION, calibrate=calibrate, by_weights=calibrate is None)
    surgery.absorb_decompose("whisper", "out", options=options)
    found = {row.metric: row for row in surgery.verify("whisper", "out").measurements}
    assert {"wer", "same_text", "encoder_error"} <= set(found)
    assert {row.data for row in found.values()} == {NAME + known}


def test_the_clips_are_those_that_calibration_holds_out(place: Path) -> None:
    with resolve("whisper") as source, shipped_data(source) as data, own_speech(source) as heard:
        held_out = deal(data).held_out
        assert held_out is not None
        assert [each.path.name for each in heard[0].utterances] == [
            each.path.name for each in held_out.recordings
        ]
        assert 2 <= len(heard[0].utterances) <= 4 and heard[0].has_transcripts
        assert sum(each.seconds() for each in heard[0].utterances) < 60
        assert heard[1] == NAME


def test_the_embedded_model_hears_its_own_digits(place: Path) -> None:
    surgery.absorb_decompose("whisper-micro", "out", options=surgery.Options(by_weights=True))
    rows = surgery.verify("whisper-micro", "out").measurements
    assert all("dialled digits" in row.data for row in rows)
