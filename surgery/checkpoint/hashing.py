"""SHA-256 of whole files, computed beside the work that reads them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Event

from surgery.errors import CheckpointError
from surgery.workers import Workers

BLOCK_BYTES = 8 << 20
"""Bytes a read; one such buffer a thread is all the memory that hashing takes."""


class FileHashes:
    """Hashes files in background threads, one file a thread at a time.

    ``hashlib`` releases the interpreter for large buffers, so the threads cost the caller a
    core and not its progress.

    Args:
        files: The files.
        threads: How many are hashed at once.
    """

    def __init__(self, files: Sequence[Path], threads: int = 2) -> None:
        self._stop = Event()
        workers = Workers(threads, "surgery-sha256")
        self._pending = {path.name: workers.submit(partial(self._hash, path)) for path in files}
        workers.close()

    def wait(self) -> dict[str, str]:
        """Return ``{file name: hex digest}`` when all are done.

        Raises:
            CheckpointError: A file could not be read, or :meth:`cancel` came first.
        """
        return {name: pending.result() for name, pending in self._pending.items()}

    def cancel(self) -> None:
        """Stop soon; nothing waits for the rest."""
        self._stop.set()

    def _hash(self, path: Path) -> str:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(BLOCK_BYTES))
        try:
            with path.open("rb", buffering=0) as stream:
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
                while count := stream.readinto(buffer):
                    digest.update(buffer[:count])
                    if self._stop.is_set():
                        raise CheckpointError("Hashing was cancelled.", where=path)
        except OSError as error:
            raise CheckpointError(
                "A weight file cannot be read.", where=path, found=error.strerror or str(error)
            ) from error
        return digest.hexdigest()
