"""SIGKILL at every step, and at random moments: the target stays whole, the work resumes.

The runs are forked, not spawned: importing torch takes longer than a run.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.checkpoint import commit, transaction
from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.writer import TensorSpec

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
SPECS = [TensorSpec(f"t{i}", torch.float32, (500,)) for i in range(5)]


def run(target: Path, pause: float = 0.0) -> None:
    # Bytes instead of arithmetic: torch's thread pool does not survive a fork.
    with Transaction(target, {"run": 1}, resume=True, force=True) as txn:
        for layer in ("0", "1"):
            if not txn.done(layer):
                txn.spill(layer, {"s": torch.zeros(100)}, payload=layer)
        for number, file in enumerate(SHARDS):
            with txn.shard(file, SPECS) as out:
                for name in out.remaining:
                    time.sleep(pause)
                    out.write(name, bytes([number + int(name[1])]) * 2000)
        txn.write_text("config.json", "{}\n")
        txn.commit()


def forked(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def state(target: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in target.iterdir()}


@pytest.fixture
def reference(tmp_path: Path) -> dict[str, bytes]:
    run(tmp_path / "reference")
    return state(tmp_path / "reference")


def old_target(target: Path) -> dict[str, bytes]:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    (target / "precious").write_bytes(b"old")
    return {"precious": b"old"}


def killed_at(step: int, target: Path, *, exchange: bool) -> None:
    """Run with every call that changes the disk counted, and die in the middle of one."""
    calls = 0

    def counted(real: Callable[..., Any], *, half: bool = False) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                if half:
                    real(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    if not exchange:
        commit.exchange = lambda one, other: False  # in the child only
    for module, name in (
        (os, "fsync"),
        (os, "ftruncate"),
        (Path, "mkdir"),
        (Path, "replace"),
        (Path, "rename"),
        (Path, "unlink"),
        (Path, "write_text"),
        (shutil, "rmtree"),
        (commit, "exchange"),
        (transaction, "recover"),
    ):
        setattr(module, name, counted(getattr(module, name)))
    os.write = counted(os.write, half=True)
    run(target)


@pytest.mark.parametrize("exchange", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_killed_at_any_step_the_target_is_whole_and_the_run_resumes(
    tmp_path: Path, reference: dict[str, bytes], exchange: bool
) -> None:
    target = tmp_path / "out"
    old = old_target(target)
    step = killed = 0
    while True:
        step += 1
        child = forked(partial(killed_at, step, target, exchange=exchange))
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        killed += 1
        # Between the two renames of the fallback the old target is whole under its other name.
        between = commit.replaced_path(target)
        assert state(target if target.exists() else between) in (old, reference)
        assert exchange or target.exists() or between.exists()
        run(target)
        assert state(target) == reference
        assert sorted(os.listdir(tmp_path)) == ["out", "reference"]
        old = old_target(target)
    assert killed > 30
    assert state(target) == reference


def test_killed_at_random_moments_a_run_still_arrives(
    tmp_path: Path, reference: dict[str, bytes]
) -> None:
    target = tmp_path / "out"
    moments = random.Random(0)
    for _ in range(40):
        child = forked(lambda: run(target, pause=0.004))
        time.sleep(moments.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if target.exists():
            break
        assert os.WIFSIGNALED(status)
    if not target.exists():
        run(target)
    assert state(target) == reference
