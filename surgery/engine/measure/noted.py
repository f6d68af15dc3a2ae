"""Figures that take long to find, noted as they come: a run that goes on finds them there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Notes(Protocol):
    """Where figures are noted for a resumed run (a transaction)."""

    def done(self, key: str) -> bool:
        """Whether something was noted under ``key`` before."""

    def record(self, key: str, payload: Any = None) -> None:
        """Note a JSON value under ``key``."""

    def payload(self, key: str) -> Any:
        """Return the value noted under ``key``."""


def noted(notes: Notes | None, key: str, find: Callable[[], T], read: Callable[[Any], T]) -> T:
    """Return what is noted under a key; else find it and note it, to the last bit.

    Args:
        notes: Where, if anywhere.
        key: Decided by what the figure is of: a run's notes are of one model, data and options.
        find: Finds it: a number, a list of numbers, ``None``, or a dataclass of these.
        read: Makes the same of its JSON value (TypeError, ValueError or LookupError of another).
    """
    if notes is not None and notes.done(key):
        try:
            return read(notes.payload(key))
        except (TypeError, ValueError, LookupError):
            pass  # something else is noted there: found anew
    found = find()
    if notes is not None:
        plain = asdict(found) if is_dataclass(found) and not isinstance(found, type) else found
        notes.record(key, plain)
    return found


def number(value: Any) -> float:
    """Read a number."""
    if not isinstance(value, float):
        raise TypeError(f"no number: {value!r}")
    return value
