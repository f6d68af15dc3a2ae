"""One file mapped into memory, handed out as tensors and bytes without a copy."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import torch

from surgery.checkpoint.header import TensorInfo
from surgery.errors import CheckpointError

# Without it, Linux refuses a private mapping larger than the machine's memory.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class MappedFile:
    """A file mapped privately (copy on write).

    Writable, because torch warns about buffers that are not; private, so that a stray write
    lands in this process's memory and never in the checkpoint.

    Args:
        path: The file; it must not shrink while it is mapped.

    Raises:
        CheckpointError: The file cannot be opened or mapped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as stream:
                self._map = mmap.mmap(
                    stream.fileno(),
                    0,
                    flags=mmap.MAP_PRIVATE | _NORESERVE,
                    prot=mmap.PROT_READ | mmap.PROT_WRITE,
                )
        except (OSError, ValueError) as error:
            raise CheckpointError(
                "A weight file cannot be mapped into memory.", where=path, found=error
            ) from error

    def raw(self, info: TensorInfo) -> memoryview:
        """Return the bytes of one tensor."""
        return memoryview(self._map)[info.offset : info.offset + info.nbytes]

    def tensor(self, info: TensorInfo) -> torch.Tensor:
        """Return one tensor as a view of the mapping.

        A tensor that does not begin at a multiple of its element size is copied: the format
        allows it, processors need not.
        """
        if info.nbytes == 0:
            return torch.empty(info.shape, dtype=info.dtype)
        if info.offset % info.dtype.itemsize:
            octets = torch.frombuffer(
                self._map, dtype=torch.uint8, count=info.nbytes, offset=info.offset
            )
            return octets.clone().view(info.dtype).reshape(info.shape)
        flat = torch.frombuffer(self._map, dtype=info.dtype, count=info.numel, offset=info.offset)
        return flat.reshape(info.shape)

    def release(self, info: TensorInfo) -> None:
        """Drop the whole pages of one tensor from this process."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        begin = -(-info.offset // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (info.offset + info.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > begin:
            self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)
