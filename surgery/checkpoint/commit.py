"""Putting a finished directory in its place: durable, and in one step.

A crash at any moment leaves the old target or the new one. The journal travels to a sibling
file for the last step (:func:`commit_path`), so that the result never contains it and yet a
later run can tell how far the step came (:func:`recover`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

from surgery.checkpoint.disk import target_errors
from surgery.checkpoint.journal import FILE as JOURNAL
from surgery.checkpoint.journal import read_entries
from surgery.checkpoint.lock import try_hold

COMMIT = "surgery:commit"
"""Journal key under which the staging directory's inode stands during the last step."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def staging_path(target: Path) -> Path:
    """The directory in which ``target`` is being made."""
    return target.with_name(f".{target.name}.surgery-partial")


def commit_path(target: Path) -> Path:
    """The journal while the last step is under way."""
    return target.with_name(f".{target.name}.surgery-commit")


def replaced_path(target: Path) -> Path:
    """The old target while the last step is under way, where two renames have to do."""
    return target.with_name(f".{target.name}.surgery-replaced")


def fsync_tree(directory: Path, *, skip: str | None = None) -> None:
    """Store every file below, then every directory, on the disk itself.

    Args:
        directory: The tree.
        skip: Name of an entry to leave out.

    Raises:
        TargetError: The disk reports an error.
    """
    for entry in sorted(directory.iterdir()):
        if entry.name == skip:
            continue
        if entry.is_dir():
            fsync_tree(entry)
        else:
            fsync_path(entry)
    fsync_path(directory)


def fsync_path(path: Path) -> None:
    """``fsync`` one file or directory.

    Raises:
        TargetError: The disk reports an error.
    """
    with target_errors(path):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        except OSError as error:
            # Some network file systems cannot sync directories.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
                raise
        finally:
            os.close(handle)


def replace(staging: Path, target: Path) -> None:
    """Make ``staging`` be ``target``, and delete what ``target`` was.

    Args:
        staging: The finished directory, stored on disk; its journal's ``COMMIT`` entry holds
            its inode, which tells it from the old target whatever each is called by then.
        target: Absent, an empty directory, or a directory to be replaced.

    Raises:
        TargetError: The file system refuses, or another process holds the old target.
    """
    note = commit_path(target)
    with target_errors(target):
        # While we hold it, no other run takes the old target for its own staging directory.
        held = try_hold(target) if target.exists() else None
        try:
            (staging / JOURNAL).replace(note)
            fsync_path(target.parent)
            old = staging if held is not None else None
            if held is None:
                staging.rename(target)
            elif not exchange(staging, target):
                old = replaced_path(target)
                target.rename(old)
                staging.rename(target)
            fsync_path(target.parent)
            if old is not None:
                shutil.rmtree(old, ignore_errors=True)
            # What could not be deleted is deleted by the next run, which the note tells so.
            if old is None or not old.exists():
                note.unlink(missing_ok=True)
                fsync_path(target.parent)
        finally:
            if held is not None:
                os.close(held)


def recover(target: Path) -> None:
    """Finish or take back a last step that a crash interrupted.

    Called with the staging directory locked (and possibly just created). Afterwards either
    the target is the new one and nothing of the old run is left, or it is the old one and
    the staging directory holds its journal again.

    Raises:
        TargetError: The file system refuses.
    """
    staging, note, old = staging_path(target), commit_path(target), replaced_path(target)
    with target_errors(target):
        if old.exists() and not target.exists():
            old.rename(target)
        if note.exists():
            inode = read_entries(note).get(COMMIT)
            if target.exists() and target.stat().st_ino == inode:
                # It was done: the staging directory is the old target, or new and empty.
                empty(staging)
                note.unlink()
            elif (staging / JOURNAL).exists():
                note.unlink()
            else:
                note.replace(staging / JOURNAL)
        shutil.rmtree(old, ignore_errors=True)


def empty(directory: Path) -> None:
    """Delete everything in a directory, and not the directory (it may be locked)."""
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step; ``False`` where the system cannot."""
    if sys.platform != "linux":
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))
