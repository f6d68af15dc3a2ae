"""Progress on the screen: an animated bar on a terminal, one plain line a stage elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from surgery.events import Event
from surgery.report.wording import printable

_DETAIL = 24  # columns


class ProgressView:
    """Draws the events it is called with; a context manager.

    Args:
        console: Where to draw. Give one on standard error, so that results can be piped.
        quiet: Draw nothing.

    Example:
        ``with ProgressView(console) as progress: run(plan, progress=progress)``
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._stage: str | None = None
        self._began = 0.0
        self._task: TaskID | None = None
        self._bars: Progress | None = None
        if console.is_terminal and not quiet:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False, style="bold"),
                BarColumn(bar_width=None, complete_style="cyan"),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left", style="dim"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[detail]}", markup=False, style="dim"),
                console=console,
                transient=False,
                expand=False,
            )

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing and leave the cursor and the last state on the screen."""
        self._finish(failed=kind is not None)
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if self._quiet:
            return
        if event.stage != self._stage:
            self._finish(failed=False)
            self._stage, self._began = event.stage, time.monotonic()
            if self._bars is not None:
                self._task = self._bars.add_task(
                    printable(event.stage), total=event.total or None, detail=""
                )
        if self._bars is not None and self._task is not None:
            self._bars.update(
                self._task,
                completed=event.done,
                total=event.total or None,
                detail=_shortened(printable(event.detail)),
            )

    def _finish(self, *, failed: bool) -> None:
        """Close the current stage; without a terminal that is when its line is printed."""
        if self._stage is None:
            return
        if self._bars is None:
            end = "stopped" if failed else "done"
            seconds = time.monotonic() - self._began
            self._console.print(
                Text(f"{printable(self._stage)}: {end} ({seconds:.1f} s)"), soft_wrap=True
            )
        elif self._task is not None:
            self._bars.update(self._task, detail="")
        self._stage = self._task = None


def _shortened(text: str) -> str:
    """Keep the end, where layer numbers differ."""
    return text if len(text) <= _DETAIL else "…" + text[-_DETAIL + 1 :]
