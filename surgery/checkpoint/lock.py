"""One run at a time in a staging directory."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from surgery.checkpoint.disk import target_errors
from surgery.errors import TargetError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PID_FILE = "lock"


class DirectoryLock:
    """Holds a directory for this process.

    The lock is the kernel's, on the directory itself: it ends with the process, however that
    ends, so it is never stale. The file beside it says which process to look for, and is the
    lock where the file system offers no other (it is stale when that process is gone).

    Args:
        directory: Created if need be.

    Raises:
        TargetError: Another live process holds it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        while True:
            with target_errors(directory):
                directory.mkdir(parents=True, exist_ok=True)
                self._handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
            try:
                kernel = _flock(self._handle)
                if not self._is_still(directory):
                    # Its holder committed (renamed) it between our open and our lock.
                    os.close(self._handle)
                    continue
                if kernel is False or (kernel is None and self._held_by_pid()):
                    raise TargetError(
                        "Another run is writing the same result.",
                        where=directory,
                        found=f"process {self._pid() or 'unknown'}",
                        hint="wait for it, or choose another place with -o",
                    )
                with target_errors(directory):
                    (directory / PID_FILE).write_text(f"{os.getpid()}\n")
            except BaseException:
                self.release()
                raise
            return

    def release(self) -> None:
        """Let go; a second call does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _is_still(self, directory: Path) -> bool:
        try:
            return os.path.samestat(directory.stat(), os.fstat(self._handle))
        except FileNotFoundError:
            return False

    def _pid(self) -> int | None:
        try:
            return int((self.directory / PID_FILE).read_text())
        except (OSError, ValueError):
            return None

    def _held_by_pid(self) -> bool:
        pid = self._pid()
        if pid is None or pid == os.getpid():
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


def try_hold(directory: Path) -> int:
    """Lock an existing directory without noting so in it; close the handle to let go.

    Raises:
        TargetError: Another process holds it.
    """
    with target_errors(directory):
        handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    if _flock(handle) is False:
        os.close(handle)
        raise TargetError("Another run is replacing the same result.", where=directory)
    return handle


def _flock(handle: int) -> bool | None:
    """Whether the kernel gave the lock; ``None`` where it knows no locks here."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True
