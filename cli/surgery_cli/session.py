"""What every command shares: where output goes, progress, errors and exit codes."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.markup import escape

from surgery.errors import SurgeryError, SurgeryWarning, kept_by
from surgery.events import Progress, ignore

INTERRUPTED, TERMINATED = 130, 143


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came: as with Ctrl-C, everything is cleaned up on the way out."""


class Session:
    """One run of one command.

    Args:
        as_json: Write one JSON document to standard output and nothing else.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.out = Console(soft_wrap=False)
        self.err = Console(stderr=True)

    def show(self, view: RenderableType) -> None:
        """Print what a person reads; nothing in JSON mode."""
        if not self.as_json:
            self.out.print(view, crop=False)  # paths that are longer than a line stay whole

    def fail(self, error: SurgeryError) -> None:
        """Say what went wrong, to a person or to a program."""
        if self.as_json:
            self.emit(error_json(error))
            return
        from surgery_cli.render import error_view

        # A terminal wraps by itself; paths must come out in one piece, to be copied.
        self.err.print(error_view(error), soft_wrap=True)

    def notes(self, others: Callable[..., None]) -> Callable[..., None]:
        """Return what shows this package's warnings as sentences, and leaves others to ``others``.

        On standard error, without the line of code they are from.
        """

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, SurgeryWarning):
                self.err.print(f"[yellow]note:[/yellow] {escape(str(message))}", soft_wrap=True)
            else:
                others(message, category, *rest, **more)

        return show

    def emit(self, document: str) -> None:
        """Print the JSON document; nothing in the mode for people."""
        if self.as_json:
            sys.stdout.write(document if document.endswith("\n") else document + "\n")


def _interrupted(error: KeyboardInterrupt, *, resumable: bool) -> SurgeryError:
    """Say what an interrupted run changed, what it leaves finished, and how to go on."""
    kept = kept_by(error)
    how = "Terminated" if isinstance(error, TerminatedError) else "Interrupted"
    if not kept:
        return SurgeryError(f"{how}; nothing was changed.")
    again = "go on with the same command"
    return SurgeryError(
        f"{how}; the result was not written, and what was finished is kept.",
        found="; ".join(kept),
        hint=f"{again} and --resume" if resumable else again,
    )


def error_json(error: SurgeryError) -> str:
    """Return an error as the JSON document that stands in for a result."""
    fields = ("message", "where", "found", "expected", "hint")
    return json.dumps({"error": {name: getattr(error, name) for name in fields}}, indent=2)


@contextmanager
def _terminable() -> Iterator[None]:
    """Have SIGTERM raise :class:`TerminatedError` in this process, and in none that it forks."""
    owner = os.getpid()

    def stop(number: int, _: object) -> None:
        if os.getpid() == owner:
            raise TerminatedError
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # in another thread than the main one there is nothing to be told
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def session(as_json: bool, *, resumable: bool = False) -> Iterator[tuple[Session, Progress]]:
    """Run a command body: progress on standard error, errors rendered, exit codes set.

    Args:
        as_json: Write JSON for programs instead of tables for people.
        resumable: Whether an interrupted run can be continued with ``--resume``.
    """
    current = Session(as_json)
    try:
        with _terminable():
            # Here, because Ctrl-C is most likely while the large libraries are imported.
            from surgery.engine.quiet import quiet_libraries
            from surgery_cli.progress import ProgressView

            quiet_libraries()
            with warnings.catch_warnings():
                # Ours are notes, whatever the environment makes of warnings.
                warnings.simplefilter("default", SurgeryWarning)
                warnings.showwarning = current.notes(warnings.showwarning)
                if as_json:
                    yield current, ignore
                else:
                    with ProgressView(current.err) as progress:
                        yield current, progress
    except SurgeryError as error:
        current.fail(error)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        current.fail(_interrupted(error, resumable=resumable))
        code = TERMINATED if isinstance(error, TerminatedError) else INTERRUPTED
        raise typer.Exit(code) from error
    except BrokenPipeError as error:
        # The reader went away (`surgery … | head`): not an error worth words.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from error
