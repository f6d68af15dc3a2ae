"""What lies beside data and is not used, said once at the start of a run."""

from __future__ import annotations

import warnings
from pathlib import Path

from surgery.errors import SurgeryWarning
from surgery.evaluation.kinds import Kind
from surgery.evaluation.recordings import unused_recordings
from surgery.evaluation.rows import unread_files


def warn_of_unused(path: Path, kind: Kind) -> None:
    """Warn of recordings, or files of text, that a folder holds and a run leaves out.

    Raises:
        SurgeryError: The folder's list is malformed.
    """
    if not path.is_dir():
        return
    told = unused_recordings(path) if kind == "audio" else unread_files(path)
    if told is not None:
        warnings.warn(told, SurgeryWarning, stacklevel=1)  # from one place, so that it is said once
