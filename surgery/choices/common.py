"""Choices that several commands offer, and the refusal of what is none of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from surgery.errors import UsageError

ScopeChoice = Literal["encoder", "decoder", "cross", "all"]
SCOPES: tuple[ScopeChoice, ...] = ("encoder", "decoder", "cross", "all")
DTYPES = ("float32", "float16", "bfloat16")

SHIPPED = "shipped"
"""In place of a path: the text, speech or tones that come with the package."""
RIDGE = 0.05
"""Default share of white input: the most that costs nothing on input like the calibration's."""


def choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value that is not among the choices.

    Raises:
        UsageError: It is not.
    """
    if value not in allowed:
        raise UsageError(
            f"{name} is not one of its choices",
            found=value,
            expected=", ".join(str(choice) for choice in allowed if choice is not None),
        )


PADDING_WEIGHT = 0.1
"""What a frame of the silence that fills up a Whisper window counts, against 1 for sound."""
