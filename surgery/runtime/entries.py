"""What config.json may say of one linear map with small parts, checked before it is believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from .errors import malformed
from .parts import linear_method

LARGEST_SINGLE = (2 - 2**-23) * 2.0**127
"""The largest number in single precision."""


def read_entry(where: str, method: str, entry: object) -> dict[str, Any]:
    """Check what config.json says of one site, and return it as a dict of its own.

    Args:
        where: What to call the entry in an error.
        method: One of :data:`.parts.LINEAR_METHODS`.
        entry: The entry as parsed from JSON.

    Raises:
        LoadError: If the entry is not of the method's form.
    """
    form = linear_method(method, where)
    keys = form.keys
    if not isinstance(entry, Mapping):
        raise malformed(where, entry, "an object")
    for key in entry:
        if key not in keys:
            expected = "only " + ", ".join(keys) if keys else "no keys"
            raise malformed(where, key, f"{expected} ({method})")
    for key in form.counts:
        value = entry.get(key)
        if not is_count(value):
            raise malformed(f"{where}.{key}", value, "a positive integer")
    for key in form.numbers:
        value = entry.get(key)
        # JSON as Python reads it may hold NaN, Infinity, and integers beyond any float. What is
        # finite, but not in the single precision that small parts run in, would be no number there.
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not is_single(value):
            raise malformed(f"{where}.{key}", value, "a finite number of single precision")
    for key in form.sizes:
        value = entry.get(key)
        if not isinstance(value, list) or not value or not all(is_count(r) for r in value):
            raise malformed(f"{where}.{key}", value, "a list of positive integers")
    for key in form.places:
        value = entry.get(key)
        if not is_count(value) and not (type(value) is int and value == 0):
            raise malformed(f"{where}.{key}", value, "an integer from 0")
    return {key: list(entry[key]) if key in form.sizes else entry[key] for key in keys}


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value read from JSON is a positive integer."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_single(value: float) -> bool:
    """Whether a number is finite in single precision."""
    return abs(value) <= LARGEST_SINGLE  # which no NaN is
