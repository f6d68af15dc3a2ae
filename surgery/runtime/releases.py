"""Which releases of transformers this runtime was tested with, and what to do beyond them."""

from __future__ import annotations

from importlib.metadata import version

OLDEST = "5.10.1"
"""First release that the tests ran against; 5.10.0 was yanked."""
NEWEST = "5.24"
"""Last release that the tests ran against, its later fixes included."""

RUNTIME = 2
"""Counts the changes of this runtime that code in older checkpoints must follow to run rightly.

2: arguments are bound by the stock class's own signature (transformers 5.24 renamed the cache).
"""


def running() -> str:
    """Return which transformers is running, for messages."""
    return f"transformers {version('transformers')}"


def remedy() -> str:
    """Return what helps where transformers and this runtime no longer fit together."""
    return (
        f"use transformers {OLDEST} to {NEWEST}, or upgrade model-surgery "
        "(and renew the code that a checkpoint carries: surgery refresh CHECKPOINT)"
    )
