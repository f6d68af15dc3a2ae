"""Small artefacts of a run kept beside its journal: spectra and factors of finished layers."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from surgery.checkpoint.disk import target_errors
from surgery.checkpoint.header import read_header
from surgery.checkpoint.journal import Journal, digest
from surgery.checkpoint.mapped import MappedFile
from surgery.checkpoint.writer import ShardWriter, TensorSpec


class Spills:
    """Safetensors files by key, each written whole or not at all, and checked on resumption.

    Args:
        directory: Where they go; created by the first.
        journal: Where each is recorded, with the crc32 of its file.
    """

    def __init__(self, directory: Path, journal: Journal) -> None:
        self._directory = directory
        self._journal = journal
        self._intact: set[str] = set()

    def write(self, key: str, tensors: Mapping[str, torch.Tensor], payload: Any) -> None:
        """Write tensors under a key and record it, with a payload."""
        path = self._path(key)
        part = path.with_suffix(".part")
        specs = [TensorSpec(name, t.dtype, tuple(t.shape)) for name, t in tensors.items()]
        with target_errors(path):
            self._directory.mkdir(exist_ok=True)
            part.unlink(missing_ok=True)
            with ShardWriter(part, specs) as writer:
                for name in writer.remaining:
                    writer.write(name, tensors[name])
            part.replace(path)
        self._journal.record(key, {"payload": payload, "spill": _crc(path)})
        self._intact.add(key)

    def intact(self, key: str) -> bool:
        """Whether a recorded key's file, if it has one, still has the bytes it was given.

        Nor is a note intact that has not the form of those of a step.
        """
        entry = self._journal.entries[key]
        if not isinstance(entry, dict) or "payload" not in entry:
            return False
        expected = entry.get("spill")
        if expected is None or key in self._intact:
            return True
        if _crc(self._path(key)) != expected:
            return False
        self._intact.add(key)
        return True

    def read(self, key: str) -> dict[str, torch.Tensor]:
        """Return the tensors of a key as views of the file."""
        if self._journal.entries[key].get("spill") is None or not self.intact(key):
            raise KeyError(key)
        path = self._path(key)
        header, _ = read_header(path)
        mapped = MappedFile(path)
        return {name: mapped.tensor(info) for name, info in header.tensors.items()}

    def discard(self, key: str) -> None:
        """Delete the file of a key."""
        self._intact.discard(key)
        with target_errors(self._directory):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._directory / f"{digest(key)[:24]}.safetensors"


def _crc(path: Path) -> int | None:
    """crc32 of a whole file; ``None`` where it cannot be read."""
    crc = 0
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                crc = zlib.crc32(block, crc)
    except OSError:
        return None
    return crc
