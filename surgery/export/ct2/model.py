"""CTranslate2's model.bin: a table of named arrays, written one after the other.

Little-endian throughout: the format's version, the name and revision of the model's kind, the
number of arrays; each array with name, dimensions, type and bytes; and the number of aliases,
each with its name and the name of the array it stands for. A string is its length with the
final zero (16 bits), its bytes, and that zero. CTranslate2 >= 3.17 reads this version.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from surgery.checkpoint.disk import target_errors
from surgery.checkpoint.writer import tensor_bytes
from surgery.export.ct2.quantise import quantised

BINARY_VERSION = 6
TYPES = (
    torch.float32,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.float16,
    torch.bfloat16,
)
"""A type's number is its place here."""


@dataclass(frozen=True)
class Variable:
    """One array of the model.

    Attributes:
        name: CTranslate2's name, with slashes.
        value: Computes it.
        weight: Whether a quantization makes integers of it.
    """

    name: str
    value: Callable[[], Tensor]
    weight: bool = False


class ModelFile:
    """A model.bin that is being written; see :func:`new_model`.

    Args:
        file: Opened for writing.
        kind: Name of the model's kind.
        revision: Its revision.
    """

    def __init__(self, file: BinaryIO, kind: str, revision: int) -> None:
        self._file = file
        self._count = 0
        self._aliases: list[tuple[str, str]] = []
        self._number(BINARY_VERSION)
        self._string(kind)
        self._number(revision)
        self._place = file.tell()
        self._number(0)  # how many arrays there are is known at the end

    def put(self, name: str, value: Tensor) -> None:
        """Write an array; names must come in alphabetical order."""
        self._count += 1
        self._string(name)
        self._file.write(struct.pack("<B", value.dim()))
        for size in value.shape:
            self._number(size)
        self._file.write(struct.pack("<B", TYPES.index(value.dtype)))
        self._number(value.numel() * value.element_size())
        self._file.write(tensor_bytes(value))

    def alias(self, name: str, existing: str) -> None:
        """Let ``name`` be the same array as ``existing``."""
        self._aliases.append((name, existing))

    def finish(self) -> None:
        """Write what is only known at the end."""
        self._number(len(self._aliases))
        for pair in self._aliases:
            for name in pair:
                self._string(name)
        self._file.seek(self._place)
        self._number(self._count)
        self._file.seek(0, os.SEEK_END)

    def _number(self, value: int) -> None:
        self._file.write(struct.pack("<I", value))

    def _string(self, text: str) -> None:
        encoded = text.encode()
        self._file.write(struct.pack("<H", len(encoded) + 1) + encoded + b"\0")


@contextmanager
def new_model(path: Path, kind: str, revision: int) -> Iterator[ModelFile]:
    """Open a model.bin for writing.

    Raises:
        TargetError: It cannot be written.
    """
    with target_errors(path), path.open("wb") as file:
        model = ModelFile(file, kind, revision)
        yield model
        model.finish()


def write_variables(
    model: ModelFile,
    variables: Iterable[Variable],
    quantization: str | None,
    written: Callable[[str], None],
) -> None:
    """Write arrays in the order CTranslate2's own converters have, each held only meanwhile.

    Equal ones are stored once (tied embeddings, norms that were never trained).

    Args:
        model: The file.
        variables: What it is to hold.
        quantization: See :func:`surgery.export.ct2.quantise.quantised`.
        written: Told every name.
    """
    known: dict[bytes, str] = {}
    for variable in sorted(variables, key=lambda one: one.name):
        value = variable.value()
        if value.dim():
            digest = _digest(value)
            if digest in known:
                model.alias(variable.name, known[digest])
                written(variable.name)
                continue
            known[digest] = variable.name
            value, scale = quantised(variable.name, value, quantization, weight=variable.weight)
        else:
            scale = None
        model.put(variable.name, value)
        if scale is not None:
            model.put(f"{variable.name}_scale", scale)
        written(variable.name)


def _digest(value: Tensor) -> bytes:
    digest = hashlib.sha256(f"{value.dtype} {tuple(value.shape)} ".encode())
    digest.update(tensor_bytes(value))
    return digest.digest()
