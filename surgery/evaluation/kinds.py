"""What models are run on: a word for it that costs no import."""

from __future__ import annotations

from typing import Literal

Kind = Literal["audio", "text"]
"""Recordings, or text."""
