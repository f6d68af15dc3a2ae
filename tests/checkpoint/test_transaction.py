"""A target is the old one or the new one, whatever happens, and work done is not done twice."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.checkpoint import commit
from surgery.checkpoint.transaction import Transaction, check_separate, digest
from surgery.checkpoint.writer import TensorSpec
from surgery.errors import TargetError, UsageError

SPECS = [TensorSpec(f"t{i}", torch.float32, (10,)) for i in range(4)]
PRINT = {"source": {"model.safetensors": {"bytes": 10}}, "options": {"energy": 0.9}}


def run(
    target: Path, *, stop_at: str | None = None, log: list[str] | None = None, **how: Any
) -> None:
    """A run of four tensors and one spilled artefact; ``log`` notes what is really computed."""
    log = [] if log is None else log
    with Transaction(target, how.pop("fingerprint", PRINT), **how) as txn:
        txn.reserve(1000)
        if not txn.done("spectra"):
            log.append("spectra")
            txn.spill("spectra", {"s": torch.arange(3.0)}, payload={"rank": 2})
        assert txn.unspill("spectra")["s"].tolist() == [0, 1, 2]
        assert txn.payload("spectra") == {"rank": 2}
        with txn.shard("model.safetensors", SPECS) as out:
            for name in out.remaining:
                if name == stop_at:
                    raise KeyboardInterrupt
                log.append(name)
                out.write(name, torch.full((10,), float(name[1])))
        txn.write_text("config.json", "{}\n")
        txn.commit()


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def old_target(directory: Path) -> Path:
    directory.mkdir()
    (directory / "precious").write_text("old")
    return directory


def test_a_run_leaves_the_result_and_nothing_else(tmp_path: Path) -> None:
    run(tmp_path / "out")
    assert set(contents(tmp_path / "out")) == {"model.safetensors", "config.json"}
    assert os.listdir(tmp_path) == ["out"]


def test_an_interrupted_run_is_resumed_without_repeating_itself(tmp_path: Path) -> None:
    run(tmp_path / "reference")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", stop_at="t2")
    assert not (tmp_path / "out").exists()
    log: list[str] = []
    run(tmp_path / "out", resume=True, log=log)
    assert log == ["t2", "t3"]
    assert contents(tmp_path / "out") == contents(tmp_path / "reference")
    assert sorted(os.listdir(tmp_path)) == ["out", "reference"]


def test_a_leftover_is_an_error_that_names_both_ways_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", stop_at="t2")
    with pytest.raises(TargetError, match=r"interrupted[\s\S]*--resume[\s\S]*--force"):
        run(tmp_path / "out")
    log: list[str] = []
    run(tmp_path / "out", force=True, log=log)
    assert log == ["spectra", "t0", "t1", "t2", "t3"]


def test_another_runs_work_is_not_resumed_and_the_difference_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", stop_at="t2")
    other = {**PRINT, "options": {"energy": 0.5}}
    with pytest.raises(TargetError, match=r"options\.energy: 0\.9, now 0\.5"):
        run(tmp_path / "out", resume=True, fingerprint=other)
    run(tmp_path / "out", resume=True)  # and the work is still there for the right one


def test_damaged_work_is_done_again(tmp_path: Path) -> None:
    run(tmp_path / "reference")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", stop_at="t3")
    staging = commit.staging_path(tmp_path / "out")
    (spilled,) = (staging / "work").iterdir()
    spilled.write_bytes(spilled.read_bytes()[:-1] + b"\xff")
    shard = staging / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-45])
    log: list[str] = []
    run(tmp_path / "out", resume=True, log=log)
    assert log == ["spectra", "t1", "t2", "t3"]
    assert contents(tmp_path / "out") == contents(tmp_path / "reference")


def test_a_torn_journal_counts_up_to_the_tear(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", stop_at="t3")
    journal = commit.staging_path(tmp_path / "out") / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-5])
    log: list[str] = []
    run(tmp_path / "out", resume=True, log=log)
    assert log == ["t2", "t3"]


@pytest.mark.parametrize(
    "text",
    [
        b'{"key":',
        b"[" * 50_000,
        b"[]",
        b'{"key":"spectra"}',
        b'{"key":["spectra"],"payload":1}',
        b'{"key":"spectra","payload":1}',
        b'{"key":"tensor:model.safetensors:t0","payload":[]}',
    ],
    ids=lambda text: text[:30].decode(),
)
def test_a_line_that_no_journal_holds_counts_for_nothing(text: bytes, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", stop_at="t2")
    journal = commit.staging_path(tmp_path / "out") / "journal.jsonl"
    first = journal.read_bytes().split(b"\n")[0]
    journal.write_bytes(first + b"\n%08x %b\n" % (zlib.crc32(text), text))
    log: list[str] = []
    run(tmp_path / "out", resume=True, log=log)
    assert log == ["spectra", "t0", "t1", "t2", "t3"]


def test_a_run_that_finished_no_step_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Transaction(tmp_path / "out", PRINT) as txn:
        txn.write_text("config.json", "{}")
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_a_target_that_is_not_empty_is_only_replaced_by_force(tmp_path: Path) -> None:
    target = old_target(tmp_path / "out")
    with pytest.raises(TargetError, match=r"not empty[\s\S]*--force"):
        run(target)
    assert contents(target) == {"precious": b"old"}
    assert os.listdir(tmp_path) == ["out"]
    with pytest.raises(KeyboardInterrupt):
        run(target, force=True, stop_at="t1")
    assert contents(target) == {"precious": b"old"}
    run(target, force=True, resume=True)
    assert set(contents(target)) == {"model.safetensors", "config.json"}
    assert os.listdir(tmp_path) == ["out"]


def test_a_target_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(TargetError, match="is a file"):
        run(tmp_path / "out", force=True)
    assert os.listdir(tmp_path) == ["out"]


def test_an_empty_target_and_missing_parents_are_fine(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    run(tmp_path / "out")
    run(tmp_path / "a" / "b" / "out")
    assert (tmp_path / "a" / "b" / "out" / "config.json").exists()


def test_without_an_atomic_exchange_two_renames_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "exchange", lambda one, other: False)
    target = old_target(tmp_path / "out")
    run(target, force=True)
    assert set(contents(target)) == {"model.safetensors", "config.json"}
    assert os.listdir(tmp_path) == ["out"]


def test_two_runs_do_not_write_the_same_target(tmp_path: Path) -> None:
    with Transaction(tmp_path / "out", PRINT):
        for how in ({}, {"resume": True}, {"force": True}):
            with pytest.raises(TargetError, match=rf"Another run[\s\S]*process {os.getpid()}"):
                run(tmp_path / "out", **how)
        run(tmp_path / "other")
    run(tmp_path / "out")


def test_without_kernel_locks_a_live_process_still_holds_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surgery.checkpoint.lock._flock", lambda handle: None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", stop_at="t2")
    lock = commit.staging_path(tmp_path / "out") / "lock"
    lock.write_text(f"{os.getppid()}\n")
    with pytest.raises(TargetError, match="Another run"):
        run(tmp_path / "out", resume=True)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    lock.write_text(f"{child}\n")  # a process that is gone: stale
    run(tmp_path / "out", resume=True)


@pytest.mark.parametrize("call", ["open", "write", "fsync"])
def test_any_failing_system_call_leaves_the_target_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    run(tmp_path / "reference")
    target = old_target(tmp_path / "out")
    real: Callable[..., Any] = getattr(os, call)
    for failing in range(200):
        calls = 0

        def fail(*args: Any, _failing: int = failing, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls - 1 == _failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        monkeypatch.setattr(os, call, fail)
        try:
            run(target, force=True, resume=True)
        except TargetError:
            monkeypatch.setattr(os, call, real)
            assert contents(target) in ({"precious": b"old"}, contents(tmp_path / "reference"))
        else:
            monkeypatch.setattr(os, call, real)
            break
    assert 0 < failing < 199
    assert contents(target) == contents(tmp_path / "reference")
    assert sorted(os.listdir(tmp_path)) == ["out", "reference"]


def test_payloads_and_records_survive_as_json(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Transaction(tmp_path / "out", PRINT) as txn:
        txn.record("ranks", {"layer": (1, 2)})
        txn.record("ranks", {"layer": (3, 4)})
        txn.spill("big", {"x": torch.ones(2)})
        txn.discard("big")
        assert not txn.done("big")
        assert not txn.done("nothing")
        raise KeyError
    with Transaction(tmp_path / "out", PRINT, resume=True) as txn:
        assert txn.resumed
        assert txn.payload("ranks") == {"layer": [3, 4]}
        assert not txn.done("big")


def test_digests_are_stable() -> None:
    assert digest({"a": 1, "b": (2, 3)}) == digest({"b": [2, 3], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_a_result_never_replaces_its_source(tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    check_separate(source, tmp_path / "out")
    check_separate(None, source)
    for target in (source, tmp_path, tmp_path / "x" / ".." / "model"):
        with pytest.raises(UsageError, match="replace the checkpoint"):
            check_separate(source, target)
