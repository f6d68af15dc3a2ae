"""How large weights are: as exported, in the checkpoint, and in the model before any surgery."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from surgery.report.wording import amount
from surgery.runtime.manifest import FINAL
from surgery.stored.merged import MergedTensors
from surgery.stored.stored import Stored

WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")
"""Suffixes of files with weights."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of weights.

    Attributes:
        exported: As written for the other runtime.
        checkpoint: In the checkpoint that was exported: pruned, where it was pruned.
        original: In the model that the checkpoint was made from, at the checkpoint's dtypes;
            ``None`` where nothing was done to it, or that is not known: its weights were cast, or
        neurons went.
    """

    exported: int
    checkpoint: int
    original: int | None

    @property
    def told(self) -> str:
        """The three as a phrase that says which is which."""
        here, there = amount(self.exported, "bytes"), amount(self.checkpoint, "bytes")
        if self.original is None:
            return f"weights {here}; in the checkpoint {there}"
        original = amount(self.original, "bytes")
        return f"weights {here}; in the checkpoint {there}, in the original {original}"


def weight_files(directory: Path) -> int:
    """Return the bytes of all files with weights in a directory."""
    files = (path for path in directory.rglob("*") if path.suffix in WEIGHTS and path.is_file())
    return sum(path.stat().st_size for path in files)


def original_bytes(stored: Stored) -> int | None:
    """Return the bytes of a model's weights before surgery; see :attr:`Sizes.original`.

    The surgery block says what was removed of attention and what was added, so that they are
    counted exactly; how wide feed-forward blocks were it need not say, nor how many tokens were.
    """
    narrower = any(one["method"] in FINAL for one in stored.operations)  # than nobody noted
    cast = any(one["options"].get("dtype") is not None for one in stored.operations)
    if not stored.operations or cast or narrower:
        return None
    specs = MergedTensors.dense(stored).specs().values()
    return sum(spec.nbytes for shard in specs for spec in shard)
