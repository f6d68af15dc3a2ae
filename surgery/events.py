"""What a long run tells whoever is watching: events, not prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One step forward.

    Attributes:
        stage: What is being done, as a short phrase shown to the user (``Reading spectra``).
            A new phrase begins a new stage.
        done: Units finished in this stage; a part of one counts.
        total: Units in this stage; 0 where that is not known.
        detail: What is being worked on now (a tensor, a layer), or nothing.
    """

    stage: str
    done: float
    total: int
    detail: str = ""


Progress = Callable[[Event], None]
"""Where events go. Called from the thread that works; must be cheap and must not raise."""


def ignore(event: Event) -> None:
    """Drop the event: the sink of a run nobody watches."""
