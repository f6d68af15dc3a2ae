"""Reading ``adapter.json`` field by field, so that every malformed one is named."""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.errors import CheckpointError
from surgery.runtime.manifest import Manifest
from surgery.runtime.manifest import read_operation as manifest_operation
from surgery.runtime.parts import LINEAR_METHODS
from surgery.stored.block import translated


class Fields:
    """One JSON object, whose fields are asked for by kind.

    Args:
        raw: The object.
        file: The file it is from, for messages.
        path: Its place in the file, keys joined by dots.
    """

    def __init__(self, raw: dict[str, Any], file: Path, path: str = "") -> None:
        self.raw = raw
        self._file, self._path = file, path

    def place(self, key: str) -> str:
        """Return where a field is, for messages."""
        return f"{self._file}: " + ".".join(filter(None, (self._path, key)))

    def is_null(self, key: str) -> bool:
        """Whether a field is null, or not there."""
        return self.raw.get(key) is None

    def text(self, key: str) -> str:
        """Return a string that is not empty."""
        value = self.raw.get(key)
        if not isinstance(value, str) or not value or "\0" in value:
            raise self.malformed(key, value, "text")
        return value

    def count(self, key: str) -> int:
        """Return a positive integer."""
        value = self.raw.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.malformed(key, value, "a positive integer")
        return value

    def inside(self, key: str) -> Fields:
        """Return an object inside this one."""
        value = self.raw.get(key)
        if not isinstance(value, dict):
            raise self.malformed(key, value, "an object")
        return Fields(value, self._file, ".".join(filter(None, (self._path, key))))

    def digests(self, key: str) -> dict[str, str]:
        """Return a map of file names to SHA-256 in hexadecimal."""
        found = self.inside(key)
        for file, digest in found.raw.items():
            if (
                not isinstance(digest, str)
                or len(digest) != 64
                or not set(digest) <= set(string.hexdigits.lower())
            ):
                raise found.malformed(file, digest, "64 hexadecimal digits")
        if not found.raw:
            raise self.malformed(key, {}, "at least one file")
        return found.raw

    def malformed(self, key: str, value: object, expected: str) -> CheckpointError:
        """Return the error of a field that is not what it must be."""
        shown = repr(value)
        return CheckpointError(
            "The adapter cannot be read",
            where=self.place(key),
            found="nothing" if value is None else shown[:80] + (" …" if len(shown) > 80 else ""),
            expected=expected,
            hint="the file was edited, or was not written by surgery tune",
        )


def read_operation(fields: Fields) -> dict[str, Any]:
    """Return a small part's operation, read as one of a checkpoint's is.

    Raises:
        CheckpointError: The method or a site is malformed; says where.
    """
    manifest = Manifest()
    with translated():
        manifest_operation(fields.place(""), fields.raw, manifest, parts_only=True)
    (operation,) = manifest.operations
    if not operation["sites"]:
        raise fields.malformed("sites", {}, "at least one linear map")
    return operation


def part_names(operation: Mapping[str, Any] | None) -> set[str]:
    """Return the name of every tensor that an operation on linear maps adds."""
    if operation is None:
        return set()
    parts = LINEAR_METHODS[operation["method"]].parts
    return {f"{path}.{part}" for path in operation["sites"] for part in parts}
