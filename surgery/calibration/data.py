"""The data a calibration runs on: listed when opened, read when used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from surgery.choices.places import data_name
from surgery.errors import SurgeryError, UsageError
from surgery.evaluation.audio import SpeechFolder, Utterance
from surgery.evaluation.fingerprints import audio_fingerprint, text_fingerprints
from surgery.evaluation.kinds import Kind
from surgery.evaluation.recordings import SUFFIXES, UNREADABLE
from surgery.evaluation.rows import Document, read_text


@dataclass(frozen=True)
class CalibrationData:
    """Recordings, or documents.

    Attributes:
        name: What to call it in a report: the last two parts of its path.
        kind: Which of the two.
        recordings: For ``audio``; their samples are read one by one, later.
        documents: For ``text``.
    """

    name: str
    kind: Kind
    recordings: tuple[Utterance, ...] = ()
    documents: tuple[Document, ...] = ()

    def __len__(self) -> int:
        """How many recordings or documents there are."""
        return len(self.recordings) + len(self.documents)

    def fingerprints(self) -> frozenset[str]:
        """Return the content hashes of all samples; reads every recording.

        Raises:
            SurgeryError: A recording cannot be read.
        """
        heard = {audio_fingerprint(recording.audio()) for recording in self.recordings}
        return frozenset(heard).union(*(text_fingerprints(each.text) for each in self.documents))


def open_data(path: Path, kind: Kind, limit: int | None = None) -> CalibrationData:
    """Open a folder or a file to calibrate on.

    Args:
        path: For ``audio`` a folder of recordings, with or without ``transcripts.tsv``, or one
            recording. For ``text`` a text file, a ``.jsonl`` file whose rows are ``{"text"}``,
            ``{"prompt", "completion"}`` or ``{"messages": [{"role", "content"}, …]}``, or a
            folder with such files anywhere below it.
        kind: What the model reads.
        limit: Keep only the first so many recordings or documents.

    Raises:
        SurgeryError: There is nothing of this kind, or a line is malformed: names file and line.
        UsageError: ``limit`` is less than one.
    """
    if limit is not None and limit < 1:
        raise UsageError("The number of samples must be at least one.", found=limit)
    name = data_name(path)
    if kind == "text":
        if path.suffix.lower() in SUFFIXES | UNREADABLE:
            raise SurgeryError(
                "This model reads text, and this is a recording.",
                where=path,
                expected="a text file, a .jsonl file, or a folder of them",
            )
        return CalibrationData(name, kind, documents=tuple(read_text(path)[:limit]))
    if path.is_file() and path.suffix.lower() not in SUFFIXES | UNREADABLE:
        raise SurgeryError(
            "This model hears audio, and this is no recording.",
            where=path,
            expected=f"a folder of recordings, or one: {', '.join(sorted(SUFFIXES))}",
        )
    return CalibrationData(name, kind, recordings=SpeechFolder.open(path, limit=limit).utterances)
