"""Recordings as Whisper wants them: mono float32 at 16 kHz, with or without transcripts."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

from surgery.errors import SurgeryError, UsageError
from surgery.evaluation.kinds import data_name

SAMPLE_RATE = 16_000  # Hz
SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg", ".aiff", ".aif"})
TRANSCRIPTS = "transcripts.tsv"

Audio = NDArray[np.float32]
"""Mono samples in [-1, 1], shape (samples,), 16 kHz."""


def read_audio(path: Path, part: tuple[int, int] = (0, 1)) -> Audio:
    """Read a recording: channels averaged, resampled to 16 kHz by a polyphase filter.

    Args:
        path: A file libsndfile reads: WAV, FLAC, MP3, Ogg, AIFF.
        part: Read only this one of so many equal pieces.

    Returns:
        float32 samples, shape (samples,).

    Raises:
        SurgeryError: If the file is absent, unreadable, empty, or holds NaN or infinity.
    """
    if not path.exists():
        raise _unreadable(path, "no such file")
    return _decode(path, path, part)


def decode_audio(content: bytes, where: str) -> Audio:
    """Read a recording as :func:`read_audio`, from a file's content; ``where`` is its name."""
    return _decode(BytesIO(content), where)


def _decode(file: Path | BytesIO, where: object, part: tuple[int, int] = (0, 1)) -> Audio:
    number, count = part
    try:
        with soundfile.SoundFile(file) as sound:
            rate, frames = sound.samplerate, sound.frames
            if number:
                sound.seek(number * frames // count)
            # To the end where all is wanted: some headers do not know how long that is.
            wanted = (number + 1) * frames // count - number * frames // count if count > 1 else -1
            samples = sound.read(wanted, dtype="float64", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise _unreadable(where, error) from error
    mono = np.asarray(samples, dtype=np.float64).mean(axis=1)
    if mono.size == 0 or not np.isfinite(mono).all():
        found = "no samples" if mono.size == 0 else "NaN or infinite samples"
        raise SurgeryError("This recording cannot be used.", where=where, found=found)
    if rate != SAMPLE_RATE:
        divisor = gcd(int(rate), SAMPLE_RATE)
        mono = resample_poly(mono, SAMPLE_RATE // divisor, int(rate) // divisor)
    return np.asarray(mono, dtype=np.float32)


def _unreadable(where: object, found: object) -> SurgeryError:
    return SurgeryError(
        "This recording cannot be read.",
        where=where,
        found=found,
        expected=f"audio: {', '.join(sorted(SUFFIXES))}",
    )


@dataclass(frozen=True)
class Utterance:
    """One recording, and what is said in it where that is known.

    Attributes:
        path: Its file.
        words: What is said.
        part: Which of how many equal pieces of the file this is.
    """

    path: Path
    words: str | None = None
    part: tuple[int, int] = (0, 1)

    def audio(self) -> Audio:
        """Read the recording (see :func:`read_audio`)."""
        return read_audio(self.path, self.part)

    def seconds(self) -> float:
        """Return how long it is, by its header alone; 0 where that cannot be read."""
        try:
            return float(soundfile.info(self.path).duration) / self.part[1]
        except (OSError, soundfile.LibsndfileError):
            return 0.0  # reading it will say what is wrong

    def piece(self, number: int, count: int) -> Utterance:
        """Return one of so many equal pieces; nobody knows which words are in it."""
        return Utterance(self.path, None, (number, count))


@dataclass(frozen=True)
class SpeechFolder:
    """A set of recordings.

    Attributes:
        path: The folder (or the one recording) it was opened from.
        utterances: In the order of ``transcripts.tsv``; without one, sorted by name.
    """

    path: Path
    utterances: tuple[Utterance, ...]

    @classmethod
    def open(cls, path: Path, *, limit: int | None = None) -> SpeechFolder:
        """List the recordings of a folder; they are read later, one by one.

        ``transcripts.tsv``, where there is one, decides what belongs to the set: a line
        holds a file name relative to the folder, a tab, and the words. A path to a single
        recording is a set of one.

        Args:
            path: Folder or recording.
            limit: Keep only the first so many.

        Raises:
            SurgeryError: If there is no recording, a line of the transcripts is malformed,
                or the recording it names is missing; names the file and the line.
            UsageError: If ``limit`` is less than one.
        """
        if limit is not None and limit < 1:
            raise UsageError("The number of recordings must be at least one.", found=limit)
        if path.is_file():
            utterances: tuple[Utterance, ...] = (Utterance(path),)
        elif not path.is_dir():
            raise SurgeryError("There is no such folder of recordings.", where=path)
        elif (path / TRANSCRIPTS).is_file():
            utterances = _read_transcripts(path / TRANSCRIPTS)
        else:
            utterances = tuple(
                Utterance(file)
                for file in sorted(path.iterdir())
                if file.suffix.lower() in SUFFIXES and file.is_file()
            )
        if not utterances:
            raise SurgeryError(
                "There are no recordings here.",
                where=path,
                expected=f"{TRANSCRIPTS}, or files ending in {', '.join(sorted(SUFFIXES))}",
            )
        return cls(path, utterances[:limit])

    @property
    def name(self) -> str:
        """What to call the set in a report: the last two parts of its path."""
        return data_name(self.path)

    @property
    def has_transcripts(self) -> bool:
        """Whether the words of every recording are known."""
        return all(utterance.words is not None for utterance in self.utterances)

    def audio(self) -> list[Audio]:
        """Read every recording."""
        return [utterance.audio() for utterance in self.utterances]

    def references(self) -> list[str]:
        """Return the words of every recording.

        Raises:
            SurgeryError: If the set has no transcripts.
        """
        words = [utterance.words for utterance in self.utterances if utterance.words is not None]
        if len(words) != len(self.utterances):
            raise SurgeryError(
                "The words of these recordings are not known.",
                where=self.path,
                expected=f"{TRANSCRIPTS}: one line a recording, file name, tab, words",
            )
        return words


def _read_transcripts(path: Path) -> tuple[Utterance, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SurgeryError("The transcripts are not UTF-8.", where=path, found=error) from error
    utterances: dict[str, Utterance] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != 2 or not fields[0].strip():
            raise _malformed(path, number, repr(line), "file name, one tab, words")
        name, words = (field.strip() for field in fields)
        if name in utterances:
            raise _malformed(path, number, f"{name} a second time", "one line a recording")
        recording = path.parent / name
        if not recording.is_file():
            raise _malformed(path, number, f"no file {name}", "a recording beside the transcripts")
        utterances[name] = Utterance(recording, words)
    return tuple(utterances.values())


def _malformed(path: Path, line: int, found: str, expected: str) -> SurgeryError:
    return SurgeryError(
        "A line of the transcripts cannot be used.",
        where=f"{path}, line {line}",
        found=found,
        expected=expected,
    )


def split(audio: Audio, longest: int) -> list[Audio]:
    """Cut a recording into pieces of at most ``longest`` samples, at quiet moments.

    Each cut is made where the energy of 20 ms is least within the last fifth of the piece, so
    that a word is seldom cut in two. A recording that fits is returned whole.
    """
    frame = SAMPLE_RATE // 50
    pieces = []
    while audio.size > longest:
        start = max(0, longest - max(frame, longest // 5))
        frames = [audio[at : at + frame] for at in range(start, longest - frame + 1, frame)]
        quietest = int(np.argmin([float(np.square(piece).sum()) for piece in frames]))
        cut = start + quietest * frame + frame // 2
        pieces.append(audio[:cut])
        audio = audio[cut:]
    return [*pieces, audio]


def window(processor: Any) -> int:
    """Samples that a Whisper processor's model hears at once (480,000 for 30 s)."""
    return int(processor.feature_extractor.n_samples)
