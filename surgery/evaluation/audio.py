"""Recordings as Whisper wants them: mono float32 at 16 kHz, with or without transcripts."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

from surgery.choices.places import data_name
from surgery.errors import SurgeryError, UsageError
from surgery.evaluation.recordings import (
    SUFFIXES,
    TRANSCRIPTS,
    how_to_read,
    no_recordings,
    read_transcripts,
    sound_files,
)

SAMPLE_RATE = 16_000  # Hz

Audio = NDArray[np.float32]
"""Mono samples in [-1, 1], shape (samples,), 16 kHz."""


def read_audio(path: Path, part: tuple[int, int] = (0, 1)) -> Audio:
    """Read a recording: channels averaged, resampled to 16 kHz by a polyphase filter.

    Args:
        path: A file libsndfile reads: WAV, FLAC, MP3, Ogg, Opus, AIFF, …
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
        hint=how_to_read(Path(str(where))),
    )


@dataclass(frozen=True)
class Utterance:
    """One recording, and what is said in it where that is known.

    Attributes:
        path: Its file.
        words: What is said.
        part: Which of how many equal pieces of the file this is.
        where: The list that names it, and the line: for messages.
    """

    path: Path
    words: str | None = None
    part: tuple[int, int] = (0, 1)
    where: str = field(default="", compare=False)

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
            SurgeryError: If there is no recording, a line of the transcripts is malformed, or the
                recording it names is missing or cannot be read; names the file and the line.
            UsageError: If ``limit`` is less than one.
        """
        if limit is not None and limit < 1:
            raise UsageError("The number of recordings must be at least one.", found=limit)
        if path.is_file():
            utterances: tuple[Utterance, ...] = (Utterance(path),)
        elif not path.is_dir():
            raise SurgeryError("There is no such folder of recordings.", where=path)
        elif (path / TRANSCRIPTS).is_file():
            lines = read_transcripts(path / TRANSCRIPTS)
            utterances = tuple(Utterance(n.recording, n.words, where=n.where) for n in lines)
        else:
            utterances = tuple(map(Utterance, sound_files(path)))
        if not utterances:
            raise no_recordings(path)
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
