"""For command lines only: keep other libraries' bars and advice off the screen."""

from __future__ import annotations

import logging
import os


def quiet_libraries() -> None:
    """Silence progress bars and advice of transformers and the hub client; errors still come.

    Process-wide, so the library itself never calls it.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
