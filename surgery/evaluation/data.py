"""What models are measured on: recordings or documents, from disk or from the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from surgery.choices.places import data_name
from surgery.errors import SurgeryError, UsageError
from surgery.evaluation.audio import SpeechFolder
from surgery.evaluation.fingerprints import audio_fingerprint, text_fingerprints
from surgery.evaluation.hub import PREFIX, HubName, hub_documents, hub_recordings
from surgery.evaluation.kinds import Kind
from surgery.evaluation.perplexity import Division
from surgery.evaluation.recordings import SUFFIXES, TRANSCRIPTS, UNREADABLE
from surgery.evaluation.rows import Unit, read_text
from surgery.evaluation.speech import Recording


@dataclass(frozen=True)
class Speech:
    """A set of recordings.

    Attributes:
        name: What to call it in a report.
        names: One a recording.
        recordings: Read when they are heard.
    """

    name: str
    names: tuple[str, ...]
    recordings: tuple[Recording, ...]
    kind: ClassVar[Kind] = "audio"

    def __len__(self) -> int:
        """How many recordings."""
        return len(self.recordings)

    def references(self) -> list[str] | None:
        """Return the words of every recording, or ``None`` where none are known.

        Raises:
            SurgeryError: Some are known and some are not.
        """
        words = [recording.words for recording in self.recordings]
        known = [text for text in words if text is not None]
        if not known:
            return None
        if len(known) != len(words):
            raise SurgeryError(
                "The words of some recordings are not known.",
                where=self.name,
                found=f"no words for {self.names[words.index(None)]}",
                expected=f"{TRANSCRIPTS} with a line for every recording, or none at all",
            )
        return known

    def fingerprints(self) -> dict[str, frozenset[str]]:
        """Return the fingerprint of every recording, by name; reads them all."""
        pairs = zip(self.names, self.recordings, strict=True)
        return {name: frozenset({audio_fingerprint(one.audio())}) for name, one in pairs}


@dataclass(frozen=True)
class Texts:
    """A set of documents that share no context.

    Attributes:
        name: What to call it in a report.
        documents: In order.
        units: What they are: ``row``, ``line``, ``file``; of several files there may be several.
    """

    name: str
    documents: tuple[str, ...]
    units: tuple[Unit, ...] = ()
    kind: ClassVar[Kind] = "text"

    def __len__(self) -> int:
        """How many documents."""
        return len(self.documents)

    def fingerprints(self) -> dict[str, frozenset[str]]:
        """Return the fingerprints of every document, by its number."""
        return {
            f"document {number}": text_fingerprints(document)
            for number, document in enumerate(self.documents, start=1)
        }


def open_speech(given: str | Path, *, limit: int | None = None) -> Speech:
    """Open a folder of audio, one recording, or ``hub:OWNER/NAME``.

    Args:
        given: Where it is.
        limit: Only the first so many recordings.

    Raises:
        UsageError: It is text, or misspelled.
        SurgeryError: There are no recordings, or their list is malformed.
    """
    if str(given).startswith(PREFIX):
        name = HubName.parse(str(given))
        found = hub_recordings(name, limit)
        return Speech(str(name), tuple(one.name for one in found), tuple(found))
    path = Path(given)
    if path.is_file() and path.suffix.lower() in (".txt", ".jsonl", ".json", ".md"):
        raise UsageError(
            "Whisper is measured on recordings, and this is text",
            where="--data",
            found=path,
            expected=f"a folder of audio, with {TRANSCRIPTS} for word error rates",
        )
    folder = SpeechFolder.open(path, limit=limit)
    names = tuple(utterance.path.name for utterance in folder.utterances)
    return Speech(folder.name, names, folder.utterances)


def open_texts(
    given: str | Path, *, limit: int | None = None, division: Division = "documents"
) -> Texts:
    """Open a text file, JSONL, a folder of these, or ``hub:OWNER/NAME``.

    Args:
        given: Where it is.
        limit: Only the first so many documents; of the hub, rows.
        division: What is a document.

    Raises:
        UsageError: It is audio, or misspelled.
        SurgeryError: There is no text, or it cannot be read.
    """
    if str(given).startswith(PREFIX):
        name = HubName.parse(str(given))
        texts, unit = hub_documents(name, limit, division)
        return Texts(str(name), tuple(texts), (unit,))
    path = Path(given)
    if path.suffix.lower() in SUFFIXES | UNREADABLE:
        raise UsageError(
            "A language model is measured on text, and this is a recording",
            where="--data",
            found=path,
            expected="a UTF-8 text file, .jsonl, or a folder of these",
        )
    documents = read_text(path, division)[:limit]
    units = tuple(dict.fromkeys(document.unit for document in documents))
    return Texts(data_name(path), tuple(document.text for document in documents), units)
