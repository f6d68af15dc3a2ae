"""Writing a result directory all or nothing, and going on where an earlier run stopped.

Everything is written to a hidden sibling of the target. A journal there notes each finished
step with a checksum of its bytes. ``commit`` stores it all on disk and swaps the sibling in;
leaving any other way (error, Ctrl-C, SIGKILL, power cut) leaves the target as it was.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch

from surgery.checkpoint.commit import (
    COMMIT,
    empty,
    fsync_path,
    fsync_tree,
    recover,
    replace,
    staging_path,
)
from surgery.checkpoint.disk import check_space, target_errors
from surgery.checkpoint.journal import (
    FILE,
    Journal,
    canonical,
    differences,
    digest,
    read_fingerprint,
)
from surgery.checkpoint.lock import PID_FILE, DirectoryLock
from surgery.checkpoint.spill import Spills
from surgery.checkpoint.writer import ShardWriter, TensorSpec
from surgery.errors import TargetError, UsageError, kept_by, note_kept

__all__ = ["Transaction", "check_separate", "digest"]

_WORK = "work"


def check_separate(source: Path | None, target: Path) -> None:
    """Refuse to write a result over the checkpoint it is made from.

    Raises:
        UsageError: The target is the source directory, or holds it.
    """
    if source is None:
        return
    source, target = source.resolve(), target.resolve()
    if source == target or target in source.parents:
        raise UsageError(
            "The result would replace the checkpoint it is made from.",
            where=target,
            found=f"source {source}",
            hint="choose another place with -o",
        )


_STEPS = {
    "site": "decomposed block",
    "ffn": "fitted block",
    "trial": "tried pair",
    "budget": "tried budget",
    "without": "tried layer",
    "price": "measured price",
    "way": "tried way",
    "tensor": "written tensor",
}
"""What is finished under keys that begin so."""


def _finished(keys: Iterable[str]) -> str:
    """Say what a journal's steps amount to: ``statistics, 12 decomposed blocks``, or nothing."""
    begun = [re.split("[-:]", key)[0] for key in keys]
    told = ["statistics"] if "statistics" in begun else []
    for kind, name in _STEPS.items():
        if count := begun.count(kind):
            told.append(f"{count} {name}{'' if count == 1 else 's'}")
    told += ["counted word errors"] * ("words" in begun)
    return ", ".join(told)


class Transaction:
    """One run's writing of one target directory.

    Args:
        target: The result directory; absent, empty, or with ``force`` to be replaced.
        fingerprint: JSON values that say what this run computes: the source's identity, the
            options, the package version. Only a run with an equal one may be resumed.
        resume: Go on from what an interrupted run left; where it left nothing, start.
        force: Replace a target that is not empty, and drop what an interrupted run left
            (unless ``resume`` can use it).
        keep: Whether what a failed run has done stays, to be resumed.

    Attributes:
        target: The resolved target.
        staging: Where it is being made; small files may be written there directly.
        resumed: Whether an earlier run's work was taken over.

    Raises:
        TargetError: The target is in the way, in use, or an interrupted run is; on a
            fingerprint that differs, says in what.
    """

    def __init__(
        self,
        target: Path,
        fingerprint: Mapping[str, Any],
        *,
        resume: bool = False,
        force: bool = False,
        keep: bool = True,
    ) -> None:
        self.target = target.resolve()
        self._keep = keep
        self.staging = staging_path(self.target)
        self.resumed = False
        self._lock = DirectoryLock(self.staging)
        try:
            recover(self.target)
            self._check_target(force)
            self.resumed = self._check_leftover(canonical(fingerprint), resume, force)
            self._journal = Journal(self.staging / FILE, fingerprint, keep=self.resumed)
        except BaseException:
            self._leave(discard=set(self._contents()) <= {PID_FILE})
            raise
        self._spills = Spills(self.staging / _WORK, self._journal)
        self._committed = False

    def done(self, key: str) -> bool:
        """Whether a step was recorded, and what it spilled is intact."""
        return key in self._journal.entries and self._spills.intact(key)

    def record(self, key: str, payload: Any = None) -> None:
        """Note a finished step with any JSON value; replaces an earlier note.

        Raises:
            TargetError: The journal cannot be written.
        """
        self._journal.record(key, {"payload": payload})

    def payload(self, key: str) -> Any:
        """Return the value recorded with a step (KeyError where there is none)."""
        return self._journal.entries[key]["payload"]

    def spill(self, key: str, tensors: Mapping[str, torch.Tensor], payload: Any = None) -> None:
        """Keep tensors that a resumed run would otherwise compute again, and record the step.

        Raises:
            TargetError: They cannot be written.
        """
        self._spills.write(key, tensors, payload)

    def unspill(self, key: str) -> dict[str, torch.Tensor]:
        """Return spilled tensors, as views of the file (KeyError where there are none)."""
        return self._spills.read(key)

    def discard(self, key: str) -> None:
        """Delete a spilled file that is no longer needed; the note of the step goes too."""
        self._spills.discard(key)

    def reserve(self, nbytes: int) -> None:
        """Check that the result fits on the disk before it is begun.

        Args:
            nbytes: Size of the whole result; what is staged already counts as there.

        Raises:
            TargetError: The disk has too little free space.
        """
        staged = sum(
            path.stat().st_size for path in self.staging.glob("*.safetensors") if path.is_file()
        )
        check_space(self.staging, max(0, nbytes - staged))

    def shard(
        self,
        file: str,
        specs: Iterable[TensorSpec],
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> ShardWriter:
        """Open a shard for writing; its ``remaining`` names what is still to be written.

        Raises:
            TargetError: It cannot be opened.
        """
        prefix = f"tensor:{file}:"
        written = {
            key.removeprefix(prefix): entry["payload"]
            for key, entry in self._journal.entries.items()
            if key.startswith(prefix) and self._spills.intact(key)
        }
        return ShardWriter(
            self.staging / file,
            specs,
            metadata=metadata,
            written=written,
            on_written=lambda name, crc: self.record(prefix + name, crc),
        )

    def write_text(self, file: str, text: str) -> Path:
        """Write a small text file into the result.

        Raises:
            TargetError: It cannot be written.
        """
        path = self.staging / file
        with target_errors(path):
            path.write_text(text, encoding="utf-8", newline="\n")
        return path

    def commit(self) -> Path:
        """Make the result the target, durably and in one step; return the target.

        Raises:
            TargetError: The disk or file system refuses; the staging directory stays.
        """
        with target_errors(self.staging):
            self._journal.record(COMMIT, self.staging.stat().st_ino)
            fsync_tree(self.staging, skip=_WORK)
            # Only now, so that a run killed while the disk was busy resumes with everything.
            if (self.staging / _WORK).exists():
                shutil.rmtree(self.staging / _WORK)
            (self.staging / PID_FILE).unlink(missing_ok=True)
        fsync_path(self.staging)
        replace(self.staging, self.target)
        self._committed = True
        return self.target

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._journal.close()
        # A run that finished no step leaves nothing worth resuming.
        kept = self._keep and bool(self._journal.entries)
        self._leave(discard=not self._committed and not kept)
        if error is not None and kept and not self._committed:
            finished = _finished(self._journal.entries)
            if finished or not kept_by(error):  # what is within it may have told already
                note_kept(error, finished or "what was begun", self.staging)

    def _contents(self) -> list[str]:
        return [path.name for path in self.staging.iterdir()] if self.staging.exists() else []

    def _leave(self, *, discard: bool) -> None:
        if discard:
            shutil.rmtree(self.staging, ignore_errors=True)
        elif not getattr(self, "_committed", False):
            (self.staging / PID_FILE).unlink(missing_ok=True)
        self._lock.release()

    def _check_target(self, force: bool) -> None:
        with target_errors(self.target):
            if self.target.exists() and not self.target.is_dir():
                raise TargetError(
                    "The target is a file.", where=self.target, hint="choose another name with -o"
                )
            if not force and self.target.exists() and any(self.target.iterdir()):
                raise TargetError(
                    "The target directory is not empty.",
                    where=self.target,
                    hint="choose another place with -o, or replace it with --force",
                )

    def _check_leftover(self, fingerprint: Any, resume: bool, force: bool) -> bool:
        """Whether to go on from what is there; otherwise leaves the staging empty."""
        if set(self._contents()) <= {PID_FILE}:
            return False
        old = read_fingerprint(self.staging / FILE)
        different = differences(old, fingerprint) if old is not None else ["there is no journal"]
        if resume and not different:
            return True
        if not force:
            raise TargetError(
                "The interrupted run did something else, and cannot be resumed."
                if resume
                else "An earlier run to this target was interrupted.",
                where=self.staging,
                found="; ".join(different[:6]) if resume else None,
                hint="run that command with --resume"
                if resume
                else "go on with --resume, or drop its work and start again with --force",
            )
        with target_errors(self.staging):
            empty(self.staging)
            (self.staging / PID_FILE).write_text("")
        return False
