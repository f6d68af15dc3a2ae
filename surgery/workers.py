"""Threads whose waiting can be interrupted without a deadlock.

``concurrent.futures`` hands results over under a Python-level lock: a Ctrl-C that arrives while
the main thread holds it leaves it held, and the worker, the pool and the interpreter's exit wait
for each other for ever. Here results go through ``SimpleQueue``, which is atomic towards signals.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Pending(Generic[Result]):
    """A result that is being computed."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._box: SimpleQueue[Result | BaseException] = SimpleQueue()

    def run(self) -> None:
        """Compute, in a worker; an exception is kept for whoever waits."""
        try:
            self._box.put(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._box.put(error)

    def result(self) -> Result:
        """Wait for the result, or raise what the work raised; may be asked again."""
        outcome = self._box.get()
        self._box.put(outcome)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class Workers:
    """A fixed number of daemon threads that take work in order.

    Args:
        threads: How many.
        name: What they are called.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._tasks: SimpleQueue[Pending[object] | None] = SimpleQueue()
        self._threads = [
            Thread(target=self._serve, name=f"{name}-{index}", daemon=True)
            for index in range(max(1, threads))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], Result]) -> Pending[Result]:
        """Queue work."""
        pending = Pending(work)
        self._tasks.put(pending)  # type: ignore[arg-type]
        return pending

    def close(self) -> None:
        """Take no more work; what is queued is still done."""
        for _ in self._threads:
            self._tasks.put(None)

    def cancel(self) -> None:
        """Drop what is queued, and wait for what is being done."""
        try:
            while True:
                self._tasks.get_nowait()
        except Empty:
            pass
        self.close()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            task.run()
