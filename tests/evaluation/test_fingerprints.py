"""A sample is known again in another file, and two different ones are told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from surgery.evaluation.audio import Audio, read_audio
from surgery.evaluation.fingerprints import (
    KEPT,
    audio_fingerprint,
    data_fingerprints,
    overlap,
    sketch,
    text_fingerprints,
)

LINE = "Once upon a time there was a cat who sat on a mat."
OTHER = "The quick brown fox jumps over the lazy dog, and on."


def noise(seed: int, size: int = 4_000) -> Audio:
    samples = np.random.default_rng(seed).standard_normal(size) * 0.2
    return np.asarray(np.round(samples * 32768) / 32768, dtype=np.float32)


def test_a_recording_is_known_whatever_the_container(tmp_path: Path) -> None:
    audio = noise(0)
    prints = set()
    for suffix, subtype in ((".wav", "PCM_16"), (".flac", "PCM_16"), (".wav", "FLOAT")):
        path = tmp_path / f"clip-{subtype}{suffix}"
        soundfile.write(path, audio, 16_000, subtype=subtype)
        prints.add(audio_fingerprint(read_audio(path)))
    [only] = prints
    assert only == audio_fingerprint(audio)
    assert len(only) == 16
    assert int(only, 16) >= 0


def test_one_sample_more_or_one_bit_less_is_another_recording() -> None:
    audio = noise(0)
    changed = audio.copy()
    changed[7] += 1 / 32768
    assert len({audio_fingerprint(each) for each in (audio, audio[:-1], changed, noise(1))}) == 4


def test_a_full_scale_sample_does_not_wrap_around() -> None:
    loud, quiet = np.ones(3, dtype=np.float32), -np.ones(3, dtype=np.float32)
    assert audio_fingerprint(loud) != audio_fingerprint(quiet)


def test_text_is_known_by_its_long_lines_whatever_stands_around_them() -> None:
    [line] = text_fingerprints(LINE)
    assert text_fingerprints(f"  {LINE.replace(' ', '   ')}\nYes.\n\n{LINE}\n") == {line}
    assert line in text_fingerprints(f"{OTHER}\n{LINE}")
    assert line not in text_fingerprints(OTHER)


def test_text_of_short_lines_is_known_as_a_whole() -> None:
    verse = "to be\nor not\nto be"
    assert len(text_fingerprints(verse)) == 1
    assert text_fingerprints(verse) == text_fingerprints("to be or  not\n\nto be\n")
    assert text_fingerprints(verse) != text_fingerprints("to be\nor not")
    assert len(text_fingerprints("")) == 1


def test_a_sketch_is_bounded_and_two_sketches_of_shared_data_still_meet() -> None:
    few = [f"{index:016x}" for index in (3, 1, 2, 3)]
    assert sketch(few) == sorted(set(few))
    many = [f"{OTHER} {index}" for index in range(3 * KEPT)]
    prints = [next(iter(text_fingerprints(each))) for each in many]
    kept = sketch(prints)
    assert kept == sorted(prints)[:KEPT]
    shared = {str(index): frozenset({each}) for index, each in enumerate(prints[:60])}
    found = overlap(kept, shared)
    assert 0 < found.shared < 60  # about a third of the sixty are in the sketch
    assert found.of == 60


def test_overlap_counts_and_names_the_samples() -> None:
    evaluation = {f"{n}.txt": text_fingerprints(f"{LINE} {n}\n{OTHER}") for n in range(5)}
    assert not overlap(text_fingerprints("something else"), evaluation)
    one = overlap(text_fingerprints(f"{LINE} 3"), evaluation)
    assert (one.shared, one.of, one.examples) == (1, 5, ("3.txt",))
    every = overlap(text_fingerprints(OTHER), evaluation)
    assert (every.shared, len(every.examples)) == (5, 3)


def test_folders_files_and_documents_are_named(tmp_path: Path) -> None:
    for seed, name in enumerate(("a.wav", "b.flac")):
        soundfile.write(tmp_path / name, noise(seed), 16_000, subtype="PCM_16")
    clips = data_fingerprints(tmp_path, "audio")
    assert clips == {
        name: frozenset({audio_fingerprint(noise(seed))})
        for seed, name in enumerate(("a.wav", "b.flac"))
    }
    assert list(data_fingerprints(tmp_path, "audio", limit=1)) == ["a.wav"]

    stories = tmp_path / "stories.txt"
    stories.write_text(f"{LINE * 5}\n{OTHER * 5}\n")
    (tmp_path / "verse.txt").write_text("to be\nor not\n")
    texts = data_fingerprints(tmp_path, "text")
    assert list(texts) == ["stories.txt, document 1", "stories.txt, document 2", "verse.txt"]
    assert texts["stories.txt, document 1"] == text_fingerprints(LINE * 5)
    assert data_fingerprints(stories, "text", limit=1) == {
        "stories.txt, document 1": text_fingerprints(LINE * 5)
    }


@pytest.mark.parametrize("kind", ["audio", "text"])
def test_the_real_sets_to_calibrate_and_to_measure_on_are_apart(shared: Path, kind: str) -> None:
    from surgery.errors import SurgeryError

    names = ("audio/speech/calib", "audio/speech/test")
    if kind == "text":
        names = ("text/tinystories/calib.txt", "text/tinystories/test.txt")
    one, other = (data_fingerprints(shared / name, kind, limit=12) for name in names)  # type: ignore[arg-type]
    every = {fingerprint for each in one.values() for fingerprint in each}
    assert overlap(sketch(every), one).shared == len(one)
    assert not overlap(sketch(every), other)
    with pytest.raises(SurgeryError):
        data_fingerprints(shared / "nowhere", kind)  # type: ignore[arg-type]
