"""Progress: an animated bar on a terminal; elsewhere a line a stage, and one every so often."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event as Signal
from threading import RLock, Thread
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from surgery.events import Event
from surgery.report.wording import printable
from surgery_cli.pace import Pace, amount_done, span

EVERY = 20.0
"""Seconds between two lines of a stage, where there is no terminal."""
_DETAIL = 24  # columns


class ProgressView:
    """Draws the events it is called with; a context manager.

    Args:
        console: Where to draw. Give one on standard error, so that results can be piped.
        quiet: Draw nothing.
        clock: Seconds from any moment.

    Example:
        ``with ProgressView(console) as progress: run(plan, progress=progress)``
    """

    def __init__(
        self,
        console: Console,
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._quiet, self._clock = console, quiet, clock
        self._event: Event | None = None
        self._pace = Pace(0, 0.0)
        self._told = 0.0
        self._lock, self._stopped = RLock(), Signal()  # the lines come from a thread of their own
        self._thread: Thread | None = None
        self._task: TaskID | None = None
        self._bars: Progress | None = None
        if console.is_terminal and not quiet:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False, style="bold"),
                BarColumn(bar_width=None, complete_style="cyan"),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                _LeftColumn(clock),
                TextColumn("{task.fields[detail]}", markup=False, style="dim"),
                console=console,
                transient=False,
                expand=False,
            )
        elif not quiet:
            self._thread = Thread(target=self._tell_now_and_then, daemon=True)

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._bars is not None:
            self._bars.start()
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Stop drawing and leave the cursor and the last state on the screen."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self._finish(failed=kind is not None)
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if self._quiet:
            return
        now = self._clock()
        with self._lock:
            if self._event is None or event.stage != self._event.stage:
                self._finish(failed=False)
                self._pace, self._told = Pace(event.done, now), now
                if self._bars is not None:
                    self._task = self._bars.add_task(
                        printable(event.stage),
                        total=event.total or None,
                        detail="",
                        pace=self._pace,
                    )
            self._pace.note(event.done, now)
            self._event = event
        if self._bars is not None and self._task is not None:
            self._bars.update(
                self._task,
                completed=event.done,
                total=event.total or None,
                detail=_shortened(printable(event.detail)),
            )

    def _finish(self, *, failed: bool) -> None:
        """Close the current stage; without a terminal that is when its last line is printed."""
        event = self._event
        if event is None:
            return
        if self._bars is None:
            end = "stopped" if failed else "done"
            seconds = self._clock() - self._pace.began
            self._print(f"{printable(event.stage)}: {end} ({seconds:.1f} s)")
        elif self._task is not None:
            self._bars.update(self._task, detail="")
        self._event = self._task = None

    def _tell_now_and_then(self) -> None:
        while not self._stopped.wait(1.0):
            self.tell()

    def tell(self) -> None:
        """Print how far the stage is, where the last line about it is old enough."""
        with self._lock:
            now = self._clock()
            if self._event is not None and now - self._told >= EVERY:
                self._told = now
                self._print(self._line(self._event, now))

    def _line(self, event: Event, now: float) -> str:
        """Say how far a stage is: ``Writing: 12 of 96, 40 s, about 5 min left (layer 3)``."""
        words = [amount_done(event.done, event.total), span(now - self._pace.began)]
        left = self._pace.left(event.total, now) if event.total else None
        if left is not None:
            words.append(f"about {span(left)} left")
        detail = f" ({printable(event.detail)})" if event.detail else ""
        return f"{printable(event.stage)}: {', '.join(words)}{detail}"

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


class _LeftColumn(ProgressColumn):
    """The time left, by the pace of the stage's own events, however far apart they are."""

    max_refresh = 0.5

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock

    def render(self, task: Task) -> Text:
        pace: Pace = task.fields["pace"]
        left = pace.left(task.total, self._clock()) if task.total else None
        return Text("" if left is None else f"{span(left)} left", style="dim")


def _shortened(text: str) -> str:
    """Keep the end, where layer numbers differ."""
    return text if len(text) <= _DETAIL else "…" + text[-_DETAIL + 1 :]
