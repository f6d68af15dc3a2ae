"""Space on the target's disk, and what the operating system says when writing fails."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from surgery.errors import TargetError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers that mean: no room."""


def free_bytes(directory: Path) -> int:
    """Bytes that can still be written below ``directory``, or below its nearest ancestor."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return shutil.disk_usage(directory).free


def check_space(directory: Path, needed: int) -> None:
    """Refuse to start what cannot fit.

    Args:
        directory: Where it is to be written; need not exist yet.
        needed: Bytes to be written.

    Raises:
        TargetError: Fewer bytes are free.
    """
    free = free_bytes(directory)
    if free < needed:
        raise TargetError(
            "The disk has too little free space for the result.",
            where=directory,
            found=f"{free:,} bytes free",
            expected=f"{needed:,} bytes needed",
            hint="free some space, or choose another place with -o",
        )


@contextmanager
def target_errors(path: Path, *, needed: int | None = None) -> Iterator[None]:
    """Turn any ``OSError`` of the block into a :class:`TargetError` about ``path``.

    Args:
        path: What is being written.
        needed: Bytes it still needs, for the message.

    Raises:
        TargetError: For every ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise _translate(error, path, needed) from error


def start_writeback(file: int, offset: int, nbytes: int) -> None:
    """Ask Linux to begin storing these bytes now, without waiting for it.

    The disk then works while the next tensor is computed, and the fsync at the end finds
    little to do. Nothing depends on it: failure and other systems are ignored.
    """
    if _SYNC_FILE_RANGE is not None and nbytes >= _WRITEBACK_BYTES:
        _SYNC_FILE_RANGE(
            file, ctypes.c_int64(offset), ctypes.c_int64(nbytes), _SYNC_FILE_RANGE_WRITE
        )


def _find_sync_file_range() -> Any:
    try:
        return ctypes.CDLL(None).sync_file_range if sys.platform == "linux" else None
    except (OSError, AttributeError):
        return None


_SYNC_FILE_RANGE = _find_sync_file_range()
_SYNC_FILE_RANGE_WRITE = 2
_WRITEBACK_BYTES = 1 << 20


def _translate(error: OSError, path: Path, needed: int | None) -> TargetError:
    if error.errno not in FULL:
        return TargetError(
            "The result cannot be written.", where=path, found=error.strerror or str(error)
        )
    try:
        free = f"{free_bytes(path.parent):,} bytes free"
    except OSError:
        free = os.strerror(error.errno or errno.ENOSPC)
    return TargetError(
        "The disk is full." if error.errno == errno.ENOSPC else "A size limit or quota is reached.",
        where=path,
        found=f"{free} ({error.strerror})",
        expected=None if needed is None else f"{needed:,} bytes more",
        hint="free some space and run the same command with --resume",
    )
