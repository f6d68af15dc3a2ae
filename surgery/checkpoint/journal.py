"""What a run has finished, one line a fact, so that a later run can go on from there.

Every line is ``crc32 of the rest, space, JSON``. A line torn by a crash fails its checksum,
and it and everything after it count for nothing. So does a line that no journal would hold.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from surgery.checkpoint.disk import target_errors
from surgery.errors import TargetError

FILE = "journal.jsonl"


def canonical(value: Any) -> Any:
    """Return ``value`` as JSON would give it back: tuples as lists, keys as strings."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


def digest(value: Any) -> str:
    """Return a stable hex digest of anything made of JSON values, paths and enums.

    Equal values give equal digests, whatever the order of their keys.
    """
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Return the dotted keys in which two JSON values differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted({*old, *new}, key=str)
        return [
            found
            for key in keys
            for found in (
                differences(old[key], new[key], f"{path}{key}.")
                if key in old and key in new
                else [f"{path}{key}: {'only now' if key in new else 'only then'}"]
            )
        ]
    if old == new:
        return []
    return [f"{path.rstrip('.') or 'everything'}: {_short(old)}, now {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Journal:
    """An append-only file of ``(key, payload)`` facts, led by a fingerprint.

    Args:
        path: The file.
        fingerprint: What this run is; the first line.
        keep: Continue the file that is there instead of starting anew.

    Raises:
        TargetError: It cannot be written.
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, Any], *, keep: bool) -> None:
        self.path = path
        lines, length = _read_lines(path) if keep else ([], 0)
        self.entries = _entries(lines)
        with target_errors(path):
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.ftruncate(self._file, length)
            os.lseek(self._file, length, os.SEEK_SET)
        if not lines:
            self._append({"fingerprint": canonical(fingerprint)})

    def record(self, key: str, payload: Any = None) -> None:
        """Note a fact; a later one under the same key replaces it.

        Raises:
            TargetError: It cannot be written.
        """
        payload = canonical(payload)
        self._append({"key": key, "payload": payload})
        self.entries[key] = payload

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, line: dict[str, Any]) -> None:
        text = json.dumps(line, separators=(",", ":")).encode()
        whole = b"%08x %b\n" % (zlib.crc32(text), text)
        with target_errors(self.path, needed=len(whole)):
            while whole:
                whole = whole[os.write(self._file, whole) :]


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the intact lines of a journal, and how many bytes they take.

    An absent file reads as empty.

    Raises:
        TargetError: It is there and cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise TargetError("The journal cannot be read.", where=path, found=error) from error
    lines: list[dict[str, Any]] = []
    length = 0
    for whole in data.split(b"\n")[:-1]:
        checksum, _, text = whole.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(text):
            break
        line = _parsed(text)
        if line is None or not _is_fact(line, first=not lines):
            break
        lines.append(line)
        length += len(whole) + 1
    return lines, length


def _parsed(text: bytes) -> Any | None:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_fact(line: Any, *, first: bool) -> TypeGuard[dict[str, Any]]:
    """Whether a line has the form of those written here."""
    if not isinstance(line, dict):
        return False
    if first:
        return "fingerprint" in line
    return isinstance(line.get("key"), str) and "payload" in line


def _entries(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return {line["key"]: line["payload"] for line in lines[1:]}


def read_entries(path: Path) -> dict[str, Any]:
    """Return the facts of a journal, the last under each key."""
    return _entries(_read_lines(path)[0])


def read_fingerprint(path: Path) -> Any | None:
    """Return the fingerprint of the run that began this journal; ``None`` where none is."""
    lines, _ = _read_lines(path)
    return lines[0]["fingerprint"] if lines else None
