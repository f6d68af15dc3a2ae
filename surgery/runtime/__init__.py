"""Run restructured weights inside transformers' own models.

Imports only torch, transformers and its own siblings, so that its source can travel inside a
checkpoint. :func:`load` is the way in; it never runs code found in a checkpoint.
"""

from __future__ import annotations

from .errors import LoadError
from .heads import ExecutedWidths, HeadLayout, executed_widths
from .loading import load

__all__ = ["ExecutedWidths", "HeadLayout", "LoadError", "executed_widths", "load"]
