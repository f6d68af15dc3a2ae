"""Recordings come in as mono 16 kHz, and what is wrong with a folder is said with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from surgery.calibration.data import open_data
from surgery.errors import SurgeryError, SurgeryWarning, UsageError
from surgery.evaluation.audio import SpeechFolder, read_audio, split
from surgery.evaluation.rows import read_text
from surgery.evaluation.unused import warn_of_unused


def sine(rate: int, seconds: float = 0.5, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "opus"])
def test_any_rate_and_format_becomes_the_same_sound(tmp_path: Path, rate: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "opus":  # knows few rates
        soundfile.write(path, sine(48_000), 48_000, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, sine(rate), rate)
    audio = read_audio(path)
    assert audio.dtype == np.float32
    lossy = suffix in ("mp3", "opus")
    assert abs(audio.size - 8_000) <= (2_500 if lossy else 0)  # they pad their frames
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(audio.size)))
    assert np.argmax(spectrum) * 16_000 / audio.size == pytest.approx(440.0, abs=2.5)
    if not lossy:
        inside = slice(200, -200)  # the filter rings at the ends
        np.testing.assert_allclose(audio[inside], sine(16_000)[inside], atol=2e-3)


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    left = sine(16_000)
    soundfile.write(path, np.stack([left, np.zeros_like(left)], axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(path), left / 2, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"not audio at all", None])
def test_an_unreadable_recording_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SurgeryError, match=r"bad\.wav"):
        read_audio(path)


@pytest.mark.parametrize(("samples", "found"), [([], "no samples"), ([0.0, np.nan], "NaN")])
def test_useless_samples_are_refused(tmp_path: Path, samples: list[float], found: str) -> None:
    path = tmp_path / "odd.wav"
    soundfile.write(path, np.asarray(samples), 16_000, subtype="FLOAT")
    with pytest.raises(SurgeryError, match=found):
        read_audio(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.flac", "a.flac"):
        soundfile.write(tmp_path / name, sine(16_000), 16_000)
    (tmp_path / "notes.txt").write_text("not a recording")
    return tmp_path


def test_transcripts_decide_what_belongs_to_the_set(folder: Path) -> None:
    (folder / "transcripts.tsv").write_text("b.flac\tthree one four\n\na.flac\t\n")
    speech = SpeechFolder.open(folder)
    assert [item.path.name for item in speech.utterances] == ["b.flac", "a.flac"]
    assert speech.references() == ["three one four", ""]
    assert [clip.size for clip in speech.audio()] == [8_000, 8_000]
    assert len(SpeechFolder.open(folder, limit=1).utterances) == 1


def test_without_transcripts_every_recording_counts_by_name(folder: Path) -> None:
    speech = SpeechFolder.open(folder)
    assert [item.path.name for item in speech.utterances] == ["a.flac", "b.flac"]
    assert not speech.has_transcripts
    with pytest.raises(SurgeryError, match=r"transcripts\.tsv"):
        speech.references()


def test_one_recording_is_a_set_of_one(folder: Path) -> None:
    speech = SpeechFolder.open(folder / "a.flac")
    assert len(speech.utterances) == 1
    assert speech.name.endswith("/a.flac")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a.flac\tone\nb.flac two\n", "line 2"),
        ("a.flac\tone\ttwo\n", "line 1"),
        ("\tone\n", "line 1"),
        ("a.flac\tone\n\nc.flac\ttwo\n", r"line 3(.|\n)*no file c\.flac"),
        ("a.flac\tone\na.flac\ttwo\n", r"line 2(.|\n)*second time"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(folder: Path, lines: str, message: str) -> None:
    (folder / "transcripts.tsv").write_text(lines)
    with pytest.raises(SurgeryError, match=message) as caught:
        SpeechFolder.open(folder)
    assert "transcripts.tsv" in str(caught.value)


def test_folders_without_recordings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SurgeryError, match="no recordings"):
        SpeechFolder.open(tmp_path)
    with pytest.raises(SurgeryError, match="no such folder"):
        SpeechFolder.open(tmp_path / "absent")
    with pytest.raises(UsageError, match="at least one"):
        SpeechFolder.open(tmp_path, limit=0)
    (tmp_path / "transcripts.tsv").write_bytes(b"a.flac\t\xff\xfe\n")
    with pytest.raises(SurgeryError, match="UTF-8"):
        SpeechFolder.open(tmp_path)


def used(folder: Path) -> list[str]:
    return [item.path.name for item in SpeechFolder.open(folder).utterances]


def test_recordings_that_no_line_lists_are_named(folder: Path) -> None:
    soundfile.write(folder / "c.wav", sine(16_000), 16_000)
    (folder / "d.m4a").write_bytes(b"....ftypM4A ")
    (folder / "transcripts.tsv").write_text("a.flac\tone\n./b.flac\ttwo\n")
    assert used(folder) == ["a.flac", "b.flac"]
    with pytest.warns(SurgeryWarning, match=r"does not list 2 of the 4: c\.wav, d\.m4a"):
        warn_of_unused(folder, "audio")


def test_recordings_of_a_kind_that_cannot_be_read_are_named(folder: Path) -> None:
    (folder / "x.m4a").write_bytes(b"....ftypM4A ")
    assert used(folder) == ["a.flac", "b.flac"]
    with pytest.warns(SurgeryWarning, match=r"cannot be read: x\.m4a \(.*ffmpeg -i x\.m4a x\.flac"):
        warn_of_unused(folder, "audio")
    (folder / "a.flac").unlink()
    (folder / "b.flac").unlink()
    with pytest.raises(SurgeryError, match=r"no recordings(.|\n)*cannot be read: x\.m4a"):
        SpeechFolder.open(folder)
    (folder / "transcripts.tsv").write_text("x.m4a\tone\n")
    with pytest.raises(SurgeryError, match=r"line 1(.|\n)*x\.m4a, which cannot be read"):
        SpeechFolder.open(folder)


def test_a_recording_of_such_a_kind_says_how_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "x.m4a").write_bytes(b"....ftypM4A ")
    for opened in (
        SpeechFolder.open(tmp_path / "x.m4a").audio,
        lambda: read_audio(tmp_path / "x.m4a"),
    ):
        with pytest.raises(SurgeryError, match=r"cannot be read(.|\n)*ffmpeg -i x\.m4a"):
            opened()
    with pytest.raises(SurgeryError, match="this is a recording"):
        open_data(tmp_path / "x.m4a", "text")
    heard = open_data(tmp_path / "x.m4a", "audio")
    with pytest.raises(SurgeryError, match="ffmpeg"):
        heard.fingerprints()


def test_folders_below_are_named_where_nothing_is_above(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("no sound")
    (tmp_path / "speech" / "calib").mkdir(parents=True)
    soundfile.write(tmp_path / "speech" / "calib" / "a.wav", sine(16_000), 16_000)
    said = r"no recordings(.|\n)*speech/calib/(.|\n)*name one"
    with pytest.raises(SurgeryError, match=said) as caught:
        SpeechFolder.open(tmp_path)
    assert "text/" not in str(caught.value)
    soundfile.write(tmp_path / "b.wav", sine(16_000), 16_000)
    assert used(tmp_path) == ["b.wav"]
    with pytest.warns(SurgeryWarning, match="not looked at: speech/calib/"):
        warn_of_unused(tmp_path, "audio")


def test_a_folder_that_is_used_whole_is_nothing_to_talk_of(folder: Path) -> None:
    warn_of_unused(folder, "audio")
    (folder / "transcripts.tsv").write_text("a.flac\tone\nb.flac\ttwo\n")
    warn_of_unused(folder, "audio")
    warn_of_unused(folder / "a.flac", "audio")


def test_files_of_a_text_folder_that_are_not_read_are_named(tmp_path: Path) -> None:
    for name in ("a.txt", "b.jsonl", "deep/c.md", "d.csv", "README.md", ".git/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "words"}\n')
    with pytest.warns(SurgeryWarning, match=r"and not: d\.csv, deep/c\.md\."):
        warn_of_unused(tmp_path, "text")
    with pytest.raises(SurgeryError, match=r"no text here(.|\n)*c\.md"):
        read_text(tmp_path / "deep")


def test_long_recordings_are_cut_where_they_are_quiet_and_lose_nothing() -> None:
    loud = np.ones(1_800, dtype=np.float32)
    quiet = np.zeros(400, dtype=np.float32)
    audio = np.concatenate([loud, quiet, loud, quiet, loud])
    pieces = split(audio, 2_300)
    np.testing.assert_array_equal(np.concatenate(pieces), audio)
    assert all(piece.size <= 2_300 for piece in pieces)
    assert [float(piece.sum()) for piece in pieces] == [1_800.0] * 3
    assert split(audio, audio.size)[0] is audio
