"""Work in threads: in order, errors where they are waited for, and no deadlock on Ctrl-C."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from surgery.stored.parallel import map_ahead
from surgery.workers import Workers

DELAYS = (0.0, 0.03, 0.05, 0.11, 0.02)
ENDLESS = f"""
import time
from surgery.stored.parallel import map_ahead

def endless():
    print("ready", flush=True)
    for _ in map_ahead(lambda item: time.sleep(0.0003), range(10**9)):
        pass

for _ in range({len(DELAYS) - 1}):
    try:
        endless()
    except KeyboardInterrupt:
        pass
endless()
"""


def test_results_come_in_order_and_may_be_asked_for_again() -> None:
    workers = Workers(3, "test")
    pending = [workers.submit(lambda number=number: number**2) for number in range(20)]
    workers.close()
    assert [each.result() for each in pending] == [number**2 for number in range(20)]
    assert pending[4].result() == 16


def test_an_error_is_raised_where_the_result_is_waited_for() -> None:
    def fail(item: int) -> int:
        if item == 2:
            raise ValueError("item 2")
        return item

    seen = []
    threads = torch.get_num_threads()
    with pytest.raises(ValueError, match="item 2"):
        for result in map_ahead(fail, range(5)):
            seen.append(result)  # noqa: PERF402
    assert seen == [0, 1]
    assert torch.get_num_threads() == threads


def test_kernels_have_their_threads_back_when_the_reader_leaves_early() -> None:
    threads = torch.get_num_threads()
    results = map_ahead(lambda item: item, range(100))
    assert next(results) == 0
    results.close()
    assert torch.get_num_threads() == threads


def test_cancelled_work_is_dropped() -> None:
    workers = Workers(1, "test")
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        time.sleep(0.05)

    for number in range(50):
        workers.submit(lambda number=number: work(number))
    workers.cancel()
    assert len(begun) < 50


def test_ctrl_c_while_waiting_for_a_result_ends_the_wait_and_the_process() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for delay in DELAYS:
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.send_signal(2)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
