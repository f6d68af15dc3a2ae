"""How the benchmarks measure: steps that take turns, and what a fresh process grows by (Linux)."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Step = Callable[[], object]
Prepared = tuple[Step, Step, Iterable[Tensor]]
"""What is measured; what autograd saves tensors for; tensors that exist anyway."""


def turns(
    steps: dict[str, Step],
    repeats: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the milliseconds of every step, round by round; the steps take turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(warm_up + repeats):
        for name, run in steps.items():
            start = clock()
            run()
            if repeat >= warm_up:
                times[name].append(1000 * (clock() - start))
    return times


def medians(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Return the median milliseconds of every step; they take turns, after one warm-up each."""
    return {name: statistics.median(taken) for name, taken in turns(steps, repeats).items()}


def saved_bytes(run: Step, known: Iterable[Tensor]) -> int:
    """Return the bytes that autograd saves beyond tensors which exist anyway."""
    existing = {tensor.untyped_storage().data_ptr() for tensor in known}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in existing:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result  # kept until here, so that no storage is counted under a used address
    return sum(saved.values())


def anonymous_bytes(pid: int) -> int:
    """Return RssAnon of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if "RssAnon" in line)


def _measured(prepare: Callable[..., Prepared], arguments: tuple[Any, ...], pipe: Any) -> None:
    """In a process of its own: prepare, say so, wait, run, report what was saved."""
    run, forward, known = prepare(*arguments)
    pipe.send("ready")
    pipe.recv()
    run()
    pipe.send("done")
    pipe.recv()
    pipe.send(saved_bytes(forward, known))


def memory(prepare: Callable[..., Prepared], *arguments: Any) -> tuple[float, float]:
    """Return MB that a fresh process grows by during a run, and MB that autograd saves.

    Args:
        prepare: A function of a module, called in the process. It should run something small of
            the same kind first: what libraries allocate once is not the contestant's.
        *arguments: Its arguments.
    """
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_measured, args=(prepare, arguments, theirs))
    process.start()
    theirs.close()  # so that a process that fails ends the waiting
    pipe.recv()
    pid = process.pid or 0
    before = peak = anonymous_bytes(pid)
    pipe.send("go")
    while not pipe.poll(0.001):
        peak = max(peak, anonymous_bytes(pid))
    pipe.recv()
    pipe.send("go on")
    saved: int = pipe.recv()
    process.join()
    return (peak - before) / 1e6, saved / 1e6
