"""Is the code that a checkpoint carries older than what transformers may ask of it?"""

from __future__ import annotations

import warnings
from pathlib import Path

from surgery.carried.remote_code import FILE, runtime_of
from surgery.errors import SurgeryWarning
from surgery.runtime.releases import RUNTIME


def note_outdated(directory: Path) -> None:
    """Warn where transformers, left alone with a checkpoint, would run code that is too old."""
    text = read_code(directory / FILE)
    if text is not None and runtime_of(text) < RUNTIME:
        warnings.warn(
            f"{directory / FILE} is older than some releases of transformers that would run it, "
            "and may decode wrongly in them (surgery.load does not use it). Renew it: "
            f"surgery refresh {directory}",
            SurgeryWarning,
            stacklevel=3,
        )


def read_code(path: Path) -> str | None:
    """Return a text file's content; ``None`` where it is not there, or no text."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
