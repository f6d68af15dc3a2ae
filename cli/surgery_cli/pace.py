"""How fast a stage goes and how long it still takes, by its own events."""

from __future__ import annotations


class Pace:
    """The pace of one stage: units a second, from its first event to its newest.

    What a resumed stage found done counts for nothing, and between two events time goes on.

    Args:
        done: Units finished when the stage began.
        now: When that was, in seconds of any clock.
    """

    def __init__(self, done: float, now: float) -> None:
        self.began = now
        self._first, self._done, self._last = done, done, now

    def note(self, done: float, now: float) -> None:
        """Take in an event."""
        if done != self._done:
            self._done, self._last = done, now

    def left(self, total: float, now: float) -> float | None:
        """Return about how many seconds are left; ``None`` where nothing tells."""
        gone = self._done - self._first
        if gone <= 0 or total <= self._done:
            return None
        unit = (self._last - self.began) / gone
        return max(0.0, unit * (total - self._done) - (now - self._last))


def span(seconds: float) -> str:
    """Write a span of time in one unit, as people tell it: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def amount_done(done: float, total: float) -> str:
    """Write how much is done: ``12 of 96``, or in per cent where units are few and large."""
    if not total:
        return f"{done:.0f}"
    return f"{done:.0f} of {total:.0f}" if total >= 10 else f"{done / total:.0%}".replace("%", " %")
