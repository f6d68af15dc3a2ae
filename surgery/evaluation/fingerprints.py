"""Content hashes of samples: whether data that tuned a model and data that measures it overlap.

A fingerprint is of what is said, not of the file: renamed, copied, re-encoded without loss or
re-wrapped, a sample keeps it. Fingerprints are kept in checkpoints, so they are short, and only
so many of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from surgery.evaluation.audio import Audio, SpeechFolder
from surgery.evaluation.kinds import Kind
from surgery.evaluation.rows import read_text, text_files

KEPT = 1024
"""Most fingerprints of a sketch: 16 kB of ``config.json``."""

LONG_ENOUGH = 32  # characters: shorter lines ("Yes.", "*/") stand in texts that share nothing
EXAMPLES = 3
_DIGITS = 16  # 64 bits: a chance hit among a million samples against a sketch, one in 10^10


def audio_fingerprint(audio: Audio) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a recording's samples.

    Args:
        audio: Mono float32 in [-1, 1] at 16 kHz, shape (samples,), as
            :func:`surgery.evaluation.audio.read_audio` gives it. Hashed as 16-bit integers,
            little-endian: a WAV and a FLAC of one recording are the same sample.
    """
    scaled = np.rint(np.asarray(audio, dtype=np.float64) * 32_768)
    return _digest(np.clip(scaled, -32_768, 32_767).astype("<i2").tobytes())


def text_fingerprints(document: str) -> frozenset[str]:
    """Return one fingerprint for every distinct long line of a document.

    White space is collapsed first. Lines, so that one story out of a file of many is found
    again whatever stands around it; lines of 32 characters and more, so that what every text
    holds is not. A document without such a line has one fingerprint, of the whole.
    """
    lines = {" ".join(line.split()) for line in document.splitlines()}
    long = {line for line in lines if len(line) >= LONG_ENOUGH}
    return frozenset(_digest(line.encode()) for line in long or {" ".join(document.split())})


def sketch(fingerprints: Iterable[str]) -> list[str]:
    """Return all fingerprints sorted, or of many the ``KEPT`` smallest.

    Hashes are uniform, so these are a random sample, and the same one for the same content: data
    that shares a fraction f of n > KEPT samples goes unnoticed with probability (1 − f)^KEPT.
    """
    return sorted(set(fingerprints))[:KEPT]


def data_fingerprints(
    path: Path, kind: Kind, *, limit: int | None = None
) -> dict[str, frozenset[str]]:
    """Return the fingerprints of every recording or document by its name.

    Args:
        path: Folder of audio or one recording; or text, JSONL, or a folder of these.
        kind: Which of the two.
        limit: Only the first so many recordings or documents.

    Raises:
        SurgeryError: Something cannot be read; it says what.
    """
    if kind == "audio":
        utterances = SpeechFolder.open(path, limit=limit).utterances
        return {
            _relative(each.path, path): frozenset({audio_fingerprint(each.audio())})
            for each in utterances
        }
    found: dict[str, frozenset[str]] = {}
    for file in text_files(path):
        documents = read_text(file)
        name = _relative(file, path)
        for number, document in enumerate(documents, start=1):
            if len(found) == limit:
                return found
            label = name if len(documents) == 1 else f"{name}, document {number}"
            found[label] = text_fingerprints(document.text)
    return found


@dataclass(frozen=True)
class Overlap:
    """What two sets of data have in common.

    Attributes:
        shared: Recordings or documents to be measured on that were calibrated on.
        of: How many are measured on.
        examples: Names of the first few shared ones.
    """

    shared: int
    of: int
    examples: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether anything is shared."""
        return self.shared > 0


def overlap(calibration: Collection[str], evaluation: Mapping[str, frozenset[str]]) -> Overlap:
    """Count the samples of ``evaluation`` that have a fingerprint among ``calibration``'s.

    Args:
        calibration: Fingerprints, or a :func:`sketch` of them.
        evaluation: Name to fingerprints, as :func:`data_fingerprints` gives them.
    """
    known = frozenset(calibration)
    shared = [name for name, own in evaluation.items() if not known.isdisjoint(own)]
    return Overlap(len(shared), len(evaluation), tuple(shared[:EXAMPLES]))


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:_DIGITS]


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file != root else file.name
