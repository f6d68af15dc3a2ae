"""What models are run on: a word for it that costs no import."""

from __future__ import annotations

from surgery.architectures.base import Input

Kind = Input
"""Recordings, or text."""
