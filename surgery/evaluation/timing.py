"""Seconds of a piece of work on any device, and how much of a batch may be held for comparing."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import ParamSpec, TypeVar

import torch

HELD_BYTES = 1 << 29
"""Hidden states of one model that are kept while another is compared with them: 512 MB."""

Given = ParamSpec("Given")
Result = TypeVar("Result")


def timed(
    device: torch.device,
    work: Callable[Given, Result],
    *args: Given.args,
    **kwargs: Given.kwargs,
) -> tuple[Result, float]:
    """Do the work and return its result and wall-clock seconds, queued kernels included."""
    _wait(device)
    began = perf_counter()
    result = work(*args, **kwargs)
    _wait(device)
    return result, perf_counter() - began


def at_once(bytes_each: int, most: int) -> int:
    """Return how many windows may be held: within :data:`HELD_BYTES`, at least one."""
    return max(1, min(most, HELD_BYTES // max(1, bytes_each)))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
