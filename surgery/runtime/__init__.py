"""Run restructured weights inside transformers' own models.

Imports only torch, transformers and its own siblings: its source travels inside checkpoints
(:mod:`surgery.carried.remote_code`). :func:`load` is the way in; it never runs code found in one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import LoadError
from .groups import ExecutedWidths, executed_widths
from .heads import HeadLayout, SiteRanks

if TYPE_CHECKING:
    from .loading import load

__all__ = ["ExecutedWidths", "HeadLayout", "LoadError", "SiteRanks", "executed_widths", "load"]


def __getattr__(name: str) -> Any:
    # transformers' modelling code takes seconds to import, and counting widths needs none of it.
    if name == "load":
        from .loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
