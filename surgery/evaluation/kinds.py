"""What models are run on: a word for it that costs no import."""

from __future__ import annotations

from pathlib import Path

from surgery.architectures.base import Input

Kind = Input
"""Recordings, or text."""


def data_name(path: Path) -> str:
    """Return what to call data in a report: the last two parts of its path."""
    return "/".join(path.resolve().parts[-2:])
