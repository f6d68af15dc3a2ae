"""What each method that leaves small trainable parts has to say for itself, as data.

No view asks for a method by name.
"""

from __future__ import annotations

from surgery.choices.parts import PARTS
from surgery.choices.small_part import MethodWords

_UNKNOWN = MethodWords()


def words(method: str) -> MethodWords:
    """Return what ``method`` says for itself; general words for one this version does not know."""
    return PARTS[method].words if method in PARTS else _UNKNOWN
