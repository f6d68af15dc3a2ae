"""For command lines only: keep other libraries' bars and advice off the screen."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """Silence progress bars and advice of transformers and the hub client; errors still come.

    Through their environment variables, so that nothing is imported for it. Process-wide, so
    the library itself never calls it, and before either is imported.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
