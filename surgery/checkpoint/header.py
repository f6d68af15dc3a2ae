"""The safetensors header: parsed strictly, because everything after it trusts it.

A safetensors file is ``u64 little-endian n | n bytes of JSON | tensor bytes``. The JSON maps
each tensor's name to its dtype, shape and ``data_offsets`` (begin, end) relative to the end
of the JSON, and may hold ``__metadata__``, a map of strings. Tensor bytes cover the rest of
the file exactly: no overlap, no hole, nothing left over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeGuard

import torch

from surgery.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
"""Larger headers are refused before they are read; the safetensors library's own limit."""

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies and what it is, as its header says.

    Attributes:
        name: Tensor name.
        dtype: Stored dtype.
        shape: Stored shape.
        file: Shard the tensor belongs to: a key of ``TensorSource.shards``.
        offset: First byte, counted from the start of that file.
        nbytes: Length in bytes.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    file: str
    offset: int
    nbytes: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """One parsed header.

    Attributes:
        tensors: Every tensor by name, in the order of their bytes.
        metadata: The ``__metadata__`` strings.
        length: Bytes before the first tensor, the 8 bytes of the length included.
    """

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    length: int


def read_header(path: Path, *, file: str | None = None) -> tuple[Header, bytes]:
    """Parse and validate the header of a safetensors file.

    Args:
        path: The file.
        file: Shard name to note in every :class:`TensorInfo`; default the file's own name.

    Returns:
        The header, and its bytes as stored (length included) for digests.

    Raises:
        CheckpointError: The file cannot be read, is truncated, or its header is corrupt.
    """
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            raw = _read_header_bytes(stream, size, path)
    except OSError as error:
        raise CheckpointError(
            "A weight file cannot be read.", where=path, found=error.strerror or str(error)
        ) from error
    return parse_header(raw, size=size, file=file or path.name, where=path), raw


def _read_header_bytes(stream: BinaryIO, size: int, where: object) -> bytes:
    prefix = stream.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > size - 8:
        _corrupt(
            "The safetensors file is truncated or is no safetensors file.",
            where,
            found=f"{size} bytes" if len(prefix) < 8 else f"{size} bytes in the file",
            expected="at least 8 bytes"
            if len(prefix) < 8
            else f"a header of {length} bytes after the first 8",
        )
    if length > MAX_HEADER_BYTES:
        _corrupt(
            "The safetensors header is larger than any real one.",
            where,
            found=f"{length} bytes",
            expected=f"at most {MAX_HEADER_BYTES} bytes",
        )
    return prefix + stream.read(length)


def parse_header(raw: bytes, *, size: int, file: str, where: object) -> Header:
    """Validate header bytes against the size of the file they came from.

    Args:
        raw: The first bytes of the file, length prefix included; more may follow.
        size: Size of the whole file in bytes.
        file: Shard name for the tensors.
        where: What to name in errors.

    Raises:
        CheckpointError: Anything is not exactly as the format demands.
    """
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or length > min(len(raw) - 8, MAX_HEADER_BYTES):
        _corrupt("The safetensors header is truncated.", where, found=f"{len(raw)} bytes")
    entries, metadata = _load_json(raw[8 : 8 + length], where)
    return Header(
        tensors=layout(entries, start=8 + length, size=size, file=file, where=where),
        metadata=metadata,
        length=8 + length,
    )


def layout(
    entries: Mapping[str, Any], *, start: int, size: int | None, file: str, where: object
) -> dict[str, TensorInfo]:
    """Turn header entries into tensors, in the order of their bytes.

    Args:
        entries: ``{name: {"dtype", "shape", "data_offsets"}}``.
        start: Offset of the first tensor byte in the file.
        size: Size of the file, or ``None`` where it is not known (a remote header).
        file: Shard name for the tensors.
        where: What to name in errors.

    Raises:
        CheckpointError: An entry is malformed, or the bytes overlap, leave a hole, or do not
            end where the file ends.
    """
    tensors = [_tensor(name, entry, start, file, where) for name, entry in entries.items()]
    # Empty tensors first among equals: they share their offset with the tensor after them.
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    position = start
    for tensor in tensors:
        if tensor.offset != position:
            _corrupt(
                "Tensor bytes overlap or leave a hole in the safetensors file.",
                f"{where}: {tensor.name}",
                found=f"begins at byte {tensor.offset}",
                expected=f"byte {position}",
            )
        position += tensor.nbytes
    if size is not None and position != size:
        _corrupt(
            "The safetensors file is truncated."
            if position > size
            else "The safetensors file has bytes that belong to no tensor.",
            where,
            found=f"{size} bytes",
            expected=f"{position} bytes, as its header says",
            hint="fetch or copy the file again",
        )
    return {tensor.name: tensor for tensor in tensors}


def _load_json(text: bytes, where: object) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        loaded = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_json
        )
        json.dumps(loaded, ensure_ascii=False).encode("utf-8")  # refuses lone surrogates
    except (ValueError, RecursionError) as error:  # includes bad UTF-8 and bad JSON
        _corrupt("The safetensors header is not valid JSON.", where, found=error)
    if not isinstance(loaded, dict):
        _corrupt("The safetensors header is no JSON object.", where, found=type(loaded).__name__)
    metadata = loaded.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        _corrupt("The safetensors __metadata__ is no map of strings.", where, found=metadata)
    return loaded, metadata


def _no_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON, and other readers refuse it")


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"the name {name!r} occurs twice")
        result[name] = value
    return result


def _tensor(name: str, entry: Any, start: int, file: str, where: object) -> TensorInfo:
    where = f"{where}: {name}"
    if not isinstance(entry, Mapping):
        _corrupt("A tensor's header entry is no JSON object.", where, found=entry)
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry.get("dtype"), str) else None
    if dtype is None:
        _corrupt(
            "A tensor has an unknown dtype.",
            where,
            found=entry.get("dtype"),
            expected="one of " + ", ".join(DTYPES),
        )
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not _naturals(shape):
        _corrupt("A tensor's shape is not a list of sizes.", where, found=shape)
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _corrupt("A tensor's data_offsets are not (begin, end).", where, found=offsets)
    nbytes = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != nbytes:
        _corrupt(
            "A tensor's bytes contradict its shape and dtype.",
            where,
            found=f"{offsets[1] - offsets[0]} bytes",
            expected=f"{nbytes} bytes for {entry['dtype']} {shape}",
        )
    return TensorInfo(name, dtype, tuple(shape), file, start + offsets[0], nbytes)


def _naturals(value: Any) -> TypeGuard[list[int]]:
    # bool is an int to Python, 2**63 and beyond no size to torch.
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**63 for v in value)


def _corrupt(
    message: str,
    where: object,
    *,
    found: object = None,
    expected: object = None,
    hint: str | None = None,
) -> NoReturn:
    shown = None if found is None else str(found)
    if shown is not None and len(shown) > 200:
        shown = shown[:200] + " …"
    raise CheckpointError(message, where=where, found=shown, expected=expected, hint=hint)
