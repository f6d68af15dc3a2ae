"""Writing safetensors as a stream: the header first, then tensor after tensor.

Shapes and dtypes are known before any number is, so the header can be; nothing larger than
one tensor is ever held, however large the shard.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from surgery.checkpoint.disk import start_writeback, target_errors
from surgery.checkpoint.header import DTYPE_NAMES

CHUNK_BYTES = 1 << 20
"""Bytes checksummed and written together: small enough to be still in cache when written."""

Written = Callable[[str, int], None]
"""Called with a tensor's name and crc32 once its bytes are with the operating system."""


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to be written: name, dtype, shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return self.numel * self.dtype.itemsize


def header_bytes(specs: Sequence[TensorSpec], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the header for tensors stored in this order: the same input, the same bytes.

    Args:
        specs: The tensors, in the order of their bytes.
        metadata: ``__metadata__``; default ``{"format": "pt"}``, which transformers demands.
    """
    entries: dict[str, object] = {"__metadata__": dict(metadata or {"format": "pt"})}
    position = 0
    for spec in specs:
        if spec.name in entries:
            raise ValueError(f"the tensor {spec.name!r} occurs twice")
        entries[spec.name] = {
            "dtype": DTYPE_NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [position, position + spec.nbytes],
        }
        position += spec.nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def aligned_order(specs: Iterable[TensorSpec]) -> list[TensorSpec]:
    """Return the order to store tensors in: as given, unless that misaligns one.

    Then those of uneven size (in practice a few biases) go to the end, wider dtypes first. The
    format allows no padding, and the safetensors library cannot read a float32 tensor at an odd
    multiple of two.
    """
    specs = list(specs)
    position = 0
    for spec in specs:
        if position % spec.dtype.itemsize:
            break
        position += spec.nbytes
    else:
        return specs
    widest = max(spec.dtype.itemsize for spec in specs)
    even = [spec for spec in specs if spec.nbytes % widest == 0]
    uneven = [spec for spec in specs if spec.nbytes % widest]
    return even + sorted(uneven, key=lambda spec: -spec.dtype.itemsize)


def file_bytes(specs: Iterable[TensorSpec]) -> int:
    """Return the size of a file of these tensors, header included."""
    ordered = aligned_order(specs)
    return len(header_bytes(ordered)) + sum(spec.nbytes for spec in ordered)


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """Return a tensor's bytes in storage order, uncopied where it lies contiguously."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


class ShardWriter:
    """Writes one safetensors file, tensor by tensor, in the order of :attr:`remaining`.

    That is the order of ``specs``, but for mixed dtypes that :func:`aligned_order` moves.

    Args:
        path: The file; created, or continued where ``written`` says so.
        specs: Every tensor.
        metadata: ``__metadata__`` of the file.
        written: crc32 of the tensors that an earlier run wrote. Those whose bytes are still
            in the file are kept; from the first that is not, the file is cut off.
        on_written: Told about every tensor that is complete.

    Raises:
        TargetError: The file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        specs: Iterable[TensorSpec],
        *,
        metadata: Mapping[str, str] | None = None,
        written: Mapping[str, int] | None = None,
        on_written: Written | None = None,
    ) -> None:
        self.path = path
        self._specs = aligned_order(specs)
        self._on_written = on_written
        self._header = header_bytes(self._specs, metadata)
        self.total_bytes = len(self._header) + sum(spec.nbytes for spec in self._specs)
        with target_errors(path, needed=self.total_bytes):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._next, self._position = 0, 0
        try:
            with target_errors(path, needed=self.total_bytes):
                self._keep(written or {})
                os.ftruncate(self._file, self._position)
                os.lseek(self._file, self._position, os.SEEK_SET)
                if self._position == 0:
                    self._put(memoryview(self._header))
        except BaseException:
            os.close(self._file)
            raise

    @property
    def remaining(self) -> list[str]:
        """Names still to be written, in order."""
        return [spec.name for spec in self._specs[self._next :]]

    def write(self, name: str, data: torch.Tensor | memoryview | bytes) -> int:
        """Write the next tensor and return the crc32 of its bytes.

        Args:
            name: Must be the first of :attr:`remaining`.
            data: A tensor of exactly the announced dtype and shape, or its bytes.

        Raises:
            TargetError: The disk is full, or writing fails otherwise.
            ValueError: The caller broke its announcement.
        """
        if self._next == len(self._specs) or self._specs[self._next].name != name:
            expected = self.remaining[:1] or ["nothing more"]
            raise ValueError(f"{self.path.name}: got tensor {name!r}, expected {expected[0]!r}")
        spec = self._specs[self._next]
        if isinstance(data, torch.Tensor):
            if data.dtype != spec.dtype or tuple(data.shape) != spec.shape:
                raise ValueError(
                    f"{name}: got {data.dtype} {tuple(data.shape)}, "
                    f"announced {spec.dtype} {spec.shape}"
                )
            data = tensor_bytes(data)
        view = memoryview(data).cast("B")
        if view.nbytes != spec.nbytes:
            raise ValueError(f"{name}: got {view.nbytes} bytes, announced {spec.nbytes}")
        with target_errors(self.path, needed=self.total_bytes - self._position):
            crc = self._put(view)
        self._next += 1
        if self._on_written is not None:
            self._on_written(name, crc)
        return crc

    def close(self) -> None:
        """Close the file; a file that is complete is complete on its own.

        Raises:
            ValueError: Tensors are missing.
        """
        self._close()
        if self.remaining:
            raise ValueError(f"{self.path.name}: {len(self.remaining)} tensors were not written")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            self._close()

    def _close(self) -> None:
        if self._file >= 0:
            with target_errors(self.path):
                os.close(self._file)
            self._file = -1

    def _put(self, view: memoryview) -> int:
        crc = 0
        for begin in range(0, view.nbytes, CHUNK_BYTES):
            chunk = view[begin : begin + CHUNK_BYTES]
            crc = zlib.crc32(chunk, crc)
            while chunk.nbytes:
                count = os.write(self._file, chunk)
                chunk = chunk[count:]
                self._position += count
        start_writeback(self._file, self._position - view.nbytes, view.nbytes)
        return crc

    def _keep(self, written: Mapping[str, int]) -> None:
        """Advance over what an earlier run left, as far as its bytes prove themselves."""
        if not written or os.pread(self._file, len(self._header), 0) != self._header:
            return
        self._position = len(self._header)
        for spec in self._specs:
            if spec.name not in written:
                return
            if _crc_of_file(self._file, self._position, spec.nbytes) != written[spec.name]:
                return
            self._next += 1
            self._position += spec.nbytes


def _crc_of_file(file: int, offset: int, nbytes: int) -> int | None:
    crc, end = 0, offset + nbytes
    while offset < end:
        block = os.pread(file, min(CHUNK_BYTES, end - offset), offset)
        if not block:
            return None
        crc = zlib.crc32(block, crc)
        offset += len(block)
    return crc


def write_index(
    path: Path,
    shards: Mapping[str, Sequence[TensorSpec]],
    *,
    total_parameters: int | None = None,
) -> None:
    """Write ``model.safetensors.index.json`` for shards as they were written.

    Args:
        path: The index file.
        shards: Shard file name to its tensors.
        total_parameters: Default: the elements of all tensors.

    Raises:
        TargetError: It cannot be written.
    """
    specs = [spec for shard in shards.values() for spec in shard]
    if total_parameters is None:
        total_parameters = sum(spec.numel for spec in specs)
    weight_map = {spec.name: shard for shard, held in shards.items() for spec in held}
    index = {
        "metadata": {
            "total_parameters": total_parameters,
            "total_size": sum(spec.nbytes for spec in specs),
        },
        "weight_map": dict(sorted(weight_map.items())),
    }
    with target_errors(path):
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
