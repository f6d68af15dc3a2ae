"""Which files of a folder are its recordings, and what is said of those that are not used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from surgery.errors import NAMED, SurgeryError, first_few

SUFFIXES = frozenset(
    {".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".au", ".caf", ".w64"}
)
"""What libsndfile reads."""
UNREADABLE = frozenset(
    {".m4a", ".m4b", ".mp4", ".aac", ".ac3", ".alac", ".amr", ".ape", ".3gp", ".mka", ".mkv"}
    | {".mov", ".mpc", ".ra", ".spx", ".webm", ".wma", ".wv"}
)
"""Sound too, and what libsndfile does not read."""
TRANSCRIPTS = "transcripts.tsv"

CONVERT = "convert what cannot be read: ffmpeg -i {name} {stem}.flac"


@dataclass(frozen=True)
class Line:
    """One line of the transcripts.

    Attributes:
        recording: The file that it names.
        words: What is said.
        where: File and line, for messages.
    """

    recording: Path
    words: str
    where: str


def read_transcripts(path: Path) -> list[Line]:
    """Read ``transcripts.tsv``: a line holds a file name, a tab, and the words.

    Raises:
        SurgeryError: A line is malformed, or the recording that it names is missing or of a kind
            that cannot be read; names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SurgeryError("The transcripts are not UTF-8.", where=path, found=error) from error
    except OSError as error:
        raise SurgeryError("The transcripts cannot be read.", where=path, found=error) from error
    found: dict[str, Line] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        fields = line.split("\t")
        if len(fields) != 2 or not fields[0].strip():
            raise _malformed(where, repr(line), "file name, one tab, words")
        name, words = (field.strip() for field in fields)
        if name in found:
            raise _malformed(where, f"{name} a second time", "one line a recording")
        recording = path.parent / name
        if not recording.is_file():
            raise _malformed(where, f"no file {name}", "a recording beside the transcripts")
        if recording.suffix.lower() not in SUFFIXES and not _opens(recording):
            raise _malformed(
                where,
                f"{name}, which cannot be read",
                f"audio: {', '.join(sorted(SUFFIXES))}",
                hint=_convert(recording),
            )
        found[name] = Line(recording, words, where)
    return list(found.values())


def sound_files(folder: Path) -> list[Path]:
    """Return the files of a folder that can be read, by their names."""
    return [path for path in _sounds(folder) if path.suffix.lower() in SUFFIXES]


def unused_recordings(folder: Path) -> str | None:
    """Say which recordings in and below a folder do not belong to its set, and why.

    Raises:
        SurgeryError: The transcripts are malformed.
    """
    listed = (folder / TRANSCRIPTS).is_file()
    used = sound_files(folder)
    if listed:
        used = [line.recording for line in read_transcripts(folder / TRANSCRIPTS)]
    here, known = _sounds(folder), {path.resolve() for path in used}
    left = [path for path in here if path.resolve() not in known]
    told = []
    if listed and left:
        told.append(f"{TRANSCRIPTS} does not list {len(left)} of the {len(here)}: {_some(left)}")
    elif left:
        told.append(f"these cannot be read: {_some(left)} ({_convert(left[0])})")
    if not listed and (below := folders_with_sound(folder)):
        told.append(f"what is in folders is not looked at: {', '.join(below)}")
    return f"Not every recording in {folder} is used: {'; '.join(told)}." if told else None


def no_recordings(folder: Path) -> SurgeryError:
    """Return the error about a folder with nothing to be heard in it."""
    others, below = _sounds(folder), folders_with_sound(folder)
    found, hint = None, None
    if (folder / TRANSCRIPTS).is_file():
        found = f"an empty {TRANSCRIPTS}"
    elif others:
        found, hint = f"only what cannot be read: {_some(others)}", _convert(others[0])
    elif below:
        found = f"folders with recordings: {', '.join(below)}"
        hint = f"name one of them: {folder / below[0]}"
    return SurgeryError(
        "There are no recordings here.",
        where=folder,
        found=found,
        expected=f"{TRANSCRIPTS}, or files ending in {', '.join(sorted(SUFFIXES))}",
        hint=hint,
    )


def folders_with_sound(folder: Path) -> list[str]:
    """Return the names of the first few folders below that hold recordings, at most two down."""
    found = []
    for path in _below(folder):
        if (path / TRANSCRIPTS).is_file() or _sounds(path):
            found.append(f"{path.relative_to(folder).as_posix()}/")
            if len(found) == NAMED:
                break
    return found


def _sounds(folder: Path) -> list[Path]:
    """Return what is audio by name, readable or not."""
    kinds = SUFFIXES | UNREADABLE
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in kinds and p.is_file())


def _below(folder: Path, depth: int = 2) -> Iterator[Path]:
    for path in sorted(folder.iterdir()) if depth else ():
        if path.is_dir() and not path.name.startswith("."):
            yield path
            yield from _below(path, depth - 1)


def _opens(path: Path) -> bool:
    try:
        soundfile.info(path)
    except (OSError, soundfile.LibsndfileError):
        return False
    return True


def _some(paths: Sequence[Path]) -> str:
    return first_few([path.name for path in paths])


def how_to_read(path: Path) -> str | None:
    """Say what to do with a file that is sound by name and of a kind that cannot be read."""
    return _convert(path) if path.suffix.lower() in UNREADABLE else None


def _convert(path: Path) -> str:
    return CONVERT.format(name=path.name, stem=path.stem)


def _malformed(where: str, found: str, expected: str, hint: str | None = None) -> SurgeryError:
    return SurgeryError(
        "A line of the transcripts cannot be used.",
        where=where,
        found=found,
        expected=expected,
        hint=hint,
    )
