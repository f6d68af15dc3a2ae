"""How people name layers of a model's towers: ``14``, ``3,7``, ``encoder:3,decoder:5-6``."""

from __future__ import annotations

import re
from typing import Literal, get_args

from surgery.errors import UsageError

LayerOrder = Literal["trials", "influence"]
LAYER_ORDERS: tuple[LayerOrder, ...] = get_args(LayerOrder)
TOWERS = ("encoder", "decoder")
_ENTRY = re.compile(r"(?:([a-z]+):)?(\d+)(?:-(\d+))?")


def named_layers(text: str, flag: str = "--drop-layers") -> list[tuple[str | None, int]]:
    """Return layers by tower; a tower is said once, and holds for what follows.

    Raises:
        UsageError: It cannot be read, or says a layer twice.
    """
    found: list[tuple[str | None, int]] = []
    tower: str | None = None
    for entry in text.split(","):
        match = _ENTRY.fullmatch(entry.strip())
        known = match is not None and match[1] in (None, *TOWERS)
        first, last = (int(match[2]), int(match[3] or match[2])) if match else (0, 0)
        if match is None or not known or last < first:
            raise _unread(flag, text, "layers such as 14, or 3,7 or 3-5, or encoder:3,decoder:5")
        tower = match[1] or tower
        found += [(tower, layer) for layer in range(first, last + 1)]
    if len(set(found)) < len(found):
        raise _unread(flag, text, "every layer once")
    return found


def counted_layers(text: str, flag: str = "--layers") -> dict[str | None, int]:
    """Return how many layers go, by tower; ``None`` stands for any.

    Raises:
        UsageError: It cannot be read.
    """
    expected = "a number such as 2, or encoder:1,decoder:2"
    found: dict[str | None, int] = {}
    for entry in text.split(","):
        match = _ENTRY.fullmatch(entry.strip())
        if (
            match is None
            or match[3]
            or match[1] not in (None, *TOWERS)
            or match[1] in found
            or not int(match[2])
        ):
            raise _unread(flag, text, expected)
        found[match[1]] = int(match[2])
    if None in found and len(found) > 1:
        raise _unread(flag, text, expected)
    return found


def _unread(flag: str, text: str, expected: str) -> UsageError:
    return UsageError(f"{flag} cannot be read", found=text, expected=expected)
