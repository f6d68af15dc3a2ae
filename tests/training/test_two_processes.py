"""Several processes learn what one learns from the same batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.engine.support import contents, tensors_of
from tests.training.runs import LENGTH, save_model, write_text

WORDS = (
    f"tune model --data text.jsonl --batch 8 --micro-batch 4 --steps 4 "
    f"--lr 3e-3 --schedule constant --warmup 0 --penalty 0.5 --held-out 0.25 --evaluate-every 3 "
    f"--save-every 2 --log-every 1 --length {LENGTH} --device cpu --json"
).split()


def told(command: list[str], folder: Path) -> Any:
    """Run a command there, and return the one JSON document it prints."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def known(numbers: dict[str, Any]) -> dict[str, Any]:
    """What is there: text has no word error rate."""
    return {name: value for name, value in numbers.items() if value is not None}


@pytest.mark.slow  # two new processes import transformers
@pytest.mark.parametrize(
    ("program", "train"),
    # Not SORSA: at its start the penalty's gradient points where rounding does, and a matrix that
    # was sent or gathered lies otherwise in memory than one that was read from a file.
    [("surgery_cli", "--train hra"), ("tests.training.sharded", "--train hra")],
    ids=["DDP", "FSDP"],
)
@pytest.mark.usefixtures("quick")
def test_two_processes_learn_what_one_does(
    program: str, train: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from surgery_cli.main import app

    monkeypatch.chdir(tmp_path)
    save_model("llama", tmp_path / "model")
    write_text(tmp_path / "text.jsonl")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [*WORDS, *train.split()]
    two = told([*launch, "-m", program, *words, "-o", "two"], tmp_path)
    done = CliRunner().invoke(app, [*words, "-o", "one"])
    assert done.exit_code == 0, done.output
    one = json.loads(done.stdout)

    assert (one["tuning"]["settings"]["accumulate"], len(one["tuning"]["steps"])) == (2, 4)
    assert two["tuning"]["settings"]["accumulate"] == 1
    # Sums of float32 in another order, in a loss and in gradients: see test_penalty.
    for mine, other in zip(two["tuning"]["steps"], one["tuning"]["steps"], strict=True):
        assert known(mine) == pytest.approx(known(other), rel=1e-4)
    for mine, other in zip(two["tuning"]["held_out"], one["tuning"]["held_out"], strict=True):
        assert known(mine) == pytest.approx(known(other), rel=1e-4)
    base, ours, theirs = (tensors_of(tmp_path / each) for each in ("one/base", "two", "one"))
    assert ours.keys() == theirs.keys()
    apart = sum(float((ours[name] - theirs[name]).square().sum()) for name in ours)
    way = sum(float((ours[name] - base[name]).square().sum()) for name in ours)
    assert (apart / way) ** 0.5 < 1e-2
    assert contents(tmp_path / "two").keys() == contents(tmp_path / "one").keys()
