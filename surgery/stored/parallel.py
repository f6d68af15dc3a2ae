"""Blocks side by side: one thread a core, each with single-threaded kernels.

A block is many small decompositions. A kernel that splits a 64×64 SVD over cores loses more in
waiting than it gains; whole blocks side by side use the cores fully.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

from surgery.workers import Pending, Workers

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def _single_threaded_kernels() -> Iterator[int]:
    """Set torch's kernels to one thread, yield how many there were, and set them back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield ``function(item)`` in order, computed by as many threads as torch uses.

    At most one result a thread is computed ahead, so memory stays that of a few blocks.
    """
    with _single_threaded_kernels() as threads:
        workers = Workers(threads, "surgery-blocks")
        waiting: deque[Pending[Result]] = deque()
        try:
            for item in items:
                waiting.append(workers.submit(partial(function, item)))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            workers.cancel()
