"""What the Trainer logs, for tensorboard, in a folder of the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import (
    TensorBoardCallback,
    is_tensorboard_available,
)

from surgery.errors import UsageError

FOLDER = "tensorboard"


def check_installed() -> None:
    """Refuse to log for what is not there, before anything is trained.

    Raises:
        UsageError: tensorboard is not installed.
    """
    installed: bool = is_tensorboard_available()  # type: ignore[no-untyped-call]
    if not installed:
        raise UsageError(
            "tensorboard is not installed",
            where="--tensorboard",
            hint="pip install tensorboard, or leave it out: the report has the same curves",
        )


def logging_into(directory: Path) -> TrainerCallback:
    """Return a callback that writes its log below a result directory."""
    callback: Any = TensorBoardCallback()  # type: ignore[no-untyped-call]
    callback.logging_dir = str(directory / FOLDER)
    made: TrainerCallback = callback
    return made
