"""Named datasets of the Hugging Face hub, through the optional ``datasets`` package.

``hub:OWNER/NAME[@REVISION][#[CONFIG/]SPLIT]``, for instance ``hub:google/fleurs#en_us/test``. The
split is ``test`` where none is named. Rows are streamed, so that a limit fetches little; audio is
decoded here, as local files are. Code that a dataset brings along is never run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from surgery.checkpoint.hub import is_transport
from surgery.errors import SurgeryError, UsageError
from surgery.evaluation.audio import Audio, decode_audio
from surgery.evaluation.perplexity import Division, are_documents
from surgery.evaluation.rows import Unit

PREFIX = "hub:"
AUDIO_COLUMNS = ("audio", "speech", "file")
WORD_COLUMNS = ("text", "sentence", "transcription", "transcript", "normalized_text", "words")
TEXT_COLUMNS = ("text", "content", "document", "story", "sentence")

_LIBRARIES = ("datasets", "huggingface_hub", "fsspec", "aiohttp")
"""What stands between here and the hub, besides the client's HTTP library."""

_NAME = re.compile(
    r"hub:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^#\s]+))?"
    r"(?:#(?:(?P<config>[^#/\s]+)/)?(?P<split>[^#/\s]+))?"
)


@dataclass(frozen=True)
class HubName:
    """A dataset on the hub, or a part of it."""

    repo: str
    revision: str | None
    config: str | None
    split: str

    @classmethod
    def parse(cls, name: str) -> HubName:
        """Read ``hub:OWNER/NAME[@REVISION][#[CONFIG/]SPLIT]``.

        Raises:
            UsageError: It is spelled otherwise.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise UsageError(
                "This names no dataset on the hub",
                where="--data",
                found=name,
                expected="hub:OWNER/NAME[@REVISION][#[CONFIG/]SPLIT]",
            )
        return cls(match["repo"], match["revision"], match["config"], match["split"] or "test")

    def __str__(self) -> str:
        """What to call it in a report: without a revision, which is in the full name."""
        part = f"{self.config}/{self.split}" if self.config else self.split
        return f"{self.repo}#{part}"


@dataclass(frozen=True)
class HubRecording:
    """A recording of a dataset, compressed as it came."""

    name: str
    content: bytes
    words: str | None

    def audio(self) -> Audio:
        """Decode it (see :func:`surgery.evaluation.audio.read_audio`)."""
        return decode_audio(self.content, self.name)


def hub_recordings(name: HubName, limit: int | None) -> list[HubRecording]:
    """Fetch the recordings of a dataset, and their words where a column holds them.

    Raises:
        SurgeryError: ``datasets`` is not installed, the dataset cannot be had, or it holds no
            audio.
    """
    library = _datasets()
    opened = _opened(library, name)
    # A stream may know its columns only from its first row.
    columns = opened.column_names or next(_rows(opened, name), {})
    column = _column(columns, AUDIO_COLUMNS, name, "recordings")
    words = next((known for known in WORD_COLUMNS if known in columns), None)
    raw = opened.cast_column(column, library.Audio(decode=False))
    found = []
    for number, row in enumerate(islice(_rows(raw, name), limit)):
        audio, said = row[column], row[words] if words is not None else None
        label = PurePath(audio.get("path") or "").name or f"row {number}"
        content = audio.get("bytes") or _content(audio.get("path"), name)
        found.append(HubRecording(label, content, None if said is None else str(said)))
    if not found:
        raise SurgeryError("This dataset is empty.", where=f"{PREFIX}{name}")
    return found


def hub_documents(
    name: HubName, limit: int | None, division: Division = "documents"
) -> tuple[list[str], Unit]:
    """Fetch the texts of a dataset, and say what each document is: a row, or all of them.

    Args:
        name: The dataset.
        limit: Only the first so many rows.
        division: ``lines``: every row is a document; ``running``: all rows are one;
            ``documents``: rows where they stand for themselves, else all of them.

    Raises:
        SurgeryError: ``datasets`` is not installed, the dataset cannot be had, or it holds no
            text.
    """
    opened = _opened(_datasets(), name)
    texts: list[str] = []
    for row in islice(_rows(opened, name), limit):
        texts.append(str(row[_column(row, TEXT_COLUMNS, name, "text")] or ""))
    filled = [text for text in texts if text.strip()]
    if not filled:
        raise SurgeryError("This dataset holds no text.", where=f"{PREFIX}{name}")
    by_rows = division == "lines" or (division == "documents" and are_documents(filled))
    return (filled, "row") if by_rows else (["\n".join(texts)], "file")


def _datasets() -> Any:
    try:
        return import_module("datasets")
    except ImportError as error:
        raise SurgeryError(
            "Datasets of the hub need the package `datasets`, which is not installed",
            hint="pip install 'model-surgery[hub-data]'",
        ) from error


def _opened(library: Any, name: HubName) -> Any:
    with _named_errors(name):
        return library.load_dataset(
            name.repo, name.config, split=name.split, revision=name.revision, streaming=True
        )


def _rows(dataset: Any, name: HubName) -> Iterator[dict[str, Any]]:
    with _named_errors(name):
        yield from dataset


@contextmanager
def _named_errors(name: HubName) -> Iterator[None]:
    try:
        yield
    except SurgeryError:
        raise
    except Exception as error:
        if not _is_about_data(error):
            raise
        raise SurgeryError(
            "This dataset cannot be fetched",
            where=f"{PREFIX}{name}",
            found=f"{type(error).__name__}: {error}",
            hint="see that the name, the part behind # and the connection are right; a gated "
            "dataset wants `hf auth login`",
        ) from error


def _is_about_data(error: Exception) -> bool:
    """Whether an error tells of the dataset or the network, not of a mistake in a program."""
    if isinstance(error, (OSError, ValueError, RuntimeError)):
        return True
    return is_transport(error) or type(error).__module__.partition(".")[0] in _LIBRARIES


def _content(path: str | None, name: HubName) -> bytes:
    if path is None:
        raise SurgeryError("A row holds no audio.", where=f"{PREFIX}{name}")
    with _named_errors(name):
        return Path(path).read_bytes()


def _column(row: Iterable[str], known: tuple[str, ...], name: HubName, what: str) -> str:
    for column in known:
        if column in row:
            return column
    raise SurgeryError(
        f"This dataset holds no {what} in a column that is known",
        where=f"{PREFIX}{name}",
        found=", ".join(row) or "no rows",
        expected=" or ".join(known),
    )
