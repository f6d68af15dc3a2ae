"""An interrupted calibrated run keeps its trials, says so, and goes on to the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import surgery
from surgery.calibration import sensitivity
from surgery.calibration.held_out import HeldOut
from surgery.calibration.storage import read_statistics
from surgery.calibration.witness import Witness
from surgery.checkpoint.commit import staging_path
from surgery.checkpoint.journal import digest
from surgery.checkpoint.resolve import resolve
from surgery.engine.cut.trials import TRIED, kept_trials, trial_key
from surgery.engine.measure import rise
from surgery_cli.main import app
from tests.engine.spoken import TEXT, save_spoken
from tests.engine.support import contents

PAIRS = 4  # of two blocks
CUTS = len(sensitivity.TRIALS)
WORDS = ("--calibrate", "text.txt", "--remove", "20%")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> Path:
    monkeypatch.chdir(tmp_path)
    save_spoken("gpt2", tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT * 4)
    return tmp_path


@contextmanager
def counted(*, most: int | None = None, stop: Any = KeyboardInterrupt) -> Iterator[list[str]]:
    """Note the blocks that are cut on trial; press Ctrl-C where that is to happen once more."""
    tried: list[str] = []
    real = sensitivity.try_cut

    def try_cut(witness: Any, model: Any, site: Any, *rest: Any) -> Any:
        if len(tried) == most:
            raise stop()
        tried.append(site.path)
        return real(witness, model, site, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensitivity, "try_cut", try_cut)
        yield tried


def run(*words: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
    assert done.exit_code == code, done.output
    return done


def cut(out: str, *more: str, code: int = 0) -> Any:
    return run("absorb-decompose", "model", "-o", out, *WORDS, *more, code=code)


def test_a_resumed_run_makes_the_trials_that_are_missing_and_the_same_bytes(place: Path) -> None:
    with counted() as all_of_them:
        cut("whole/out")
    assert len(all_of_them) == PAIRS * CUTS
    with counted(most=2 * CUTS + 1):  # in the middle of the third pair
        told = " ".join(cut("out", code=130).stderr.split())
    assert "nothing was changed" not in told and "--resume" in told
    assert "statistics, 2 decomposed blocks, 2 tried pairs, in" in told
    assert str(staging_path(place / "out")) in told.replace(" ", "")
    with counted() as rest:
        cut("out", "--resume")
    assert len(rest) == (PAIRS - 2) * CUTS
    assert contents(place / "out") == contents(place / "whole" / "out")


def test_sigterm_is_told_and_keeps_what_ctrl_c_does(place: Path) -> None:
    def stop() -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return AssertionError("the signal went unheard")

    before = signal.getsignal(signal.SIGTERM)
    with counted(most=2 * CUTS, stop=stop):
        told = " ".join(cut("out", code=143).stderr.split())
    assert signal.getsignal(signal.SIGTERM) is before
    assert told.count("Terminated; the result was not written") == 1
    assert "statistics, 2 decomposed blocks, 2 tried pairs, in" in told and "--resume" in told
    assert not (place / "out").exists()
    with counted() as rest:
        cut("out", "--resume")
    assert len(rest) == (PAIRS - 2) * CUTS


@pytest.mark.slow
def test_tried_budgets_and_prices_are_kept_and_used_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "text.txt").write_text((TEXT + "\n\n") * 20)
    words = ("absorb-decompose", "model", "--calibrate", "text.txt", "--max-ppl-increase", "0.1%")
    taken: list[str] = []
    most = 0

    def note(module: Any, name: str) -> None:
        real = getattr(module, name)

        def noting(*args: Any, **kwargs: Any) -> Any:
            if len(taken) == most:
                raise KeyboardInterrupt
            taken.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, noting)

    note(rise, "perplexity")
    note(Witness, "damage")
    note(HeldOut, "price")
    with counted():
        most = 1000
        run(*words, "-o", "whole/out")
        in_all, figures = taken.copy(), taken.count("perplexity")
        assert figures > 2 and in_all[-1] == "price"
        trials = in_all.index("perplexity")  # the original's
        for at in (trials + 2, len(in_all) - 1):
            taken.clear()
            most = at
            told = " ".join(run(*words, "-o", "out", code=130).stderr.split())
            assert "tried budget" in told
            taken.clear()
            most = 1000
            run(*words, "-o", "out", "--resume")
            assert taken == in_all[at:]
            assert contents(place / "out") == contents(place / "whole" / "out")
            shutil.rmtree(place / "out")


def test_a_spoilt_trial_is_made_again(place: Path) -> None:
    cut("whole/out")
    with counted(most=2 * CUTS):
        cut("out", code=130)
    work = staging_path(place / "out") / "work"
    spoilt = [path for path in work.iterdir() if path.stat().st_size < 1000]
    assert len(spoilt) == 2
    content = spoilt[0].read_bytes()
    spoilt[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    spoilt[1].unlink()
    with counted() as rest:
        cut("out", "--resume")
    assert len(rest) == PAIRS * CUTS
    assert contents(place / "out") == contents(place / "whole" / "out")


class Kept:
    """What an interrupted run left."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors

    def done(self, key: str) -> bool:
        return key == trial_key("block", "qk")

    def spill(self, key: str, tensors: dict[str, Tensor]) -> None:
        raise AssertionError("nothing is kept here")

    def record(self, key: str, payload: Any = None) -> None:
        raise AssertionError("nothing is noted here")

    def payload(self, key: str) -> Any:
        raise AssertionError("nothing was noted here")

    def unspill(self, key: str) -> dict[str, Tensor]:
        return self.tensors


@pytest.mark.parametrize(
    ("tensors", "known"),
    [
        ({TRIED: torch.tensor([[0.25, 0.1], [0.5, float("nan")]], dtype=torch.float64)}, True),
        ({TRIED: torch.zeros(3, 2)}, False),
        ({TRIED: torch.zeros(2, 3, dtype=torch.float64)}, False),
        ({"other": torch.zeros(3, 2, dtype=torch.float64)}, False),
        ({}, False),
    ],
)
def test_what_is_no_trial_is_not_taken_for_one(tensors: dict[str, Tensor], known: bool) -> None:
    found = kept_trials(Kept(**tensors), [("block", "qk"), ("block", "vo")])
    assert list(found) == ([("block", "qk")] if known else [])
    assert kept_trials(None, [("block", "qk")]) == {}


def test_a_file_of_statistics_keeps_the_trials_that_were_made(place: Path) -> None:
    options = surgery.Options(calibrate=surgery.Calibrate("text.txt", "kept"))
    words = ("inspect", "model", "--calibrate", "text.txt", "--statistics", "kept")
    run(*words[:-1], "whole")
    with counted(most=3 * CUTS):
        told = " ".join(run(*words, code=130).stderr.split())
    assert "statistics with trials of 3 pairs, in" in told and "go on with the same command" in told
    assert "--resume" not in told
    with resolve("model") as source:
        found = read_statistics(place / "kept", source_sha256=source.sha256())
    assert len(found.trials) == 3 and found.ridge == options.calibrate.ridge  # type: ignore[union-attr]
    with counted() as rest:
        run(*words)
    assert len(rest) == (PAIRS - 3) * CUTS
    assert (place / "kept").read_bytes() == (place / "whole").read_bytes()


def test_trials_at_another_ridge_are_not_given_up_for_some(place: Path) -> None:
    words = ("inspect", "model", "--calibrate", "text.txt", "--statistics", "kept")
    run(*words)
    whole = digest((place / "kept").read_bytes().hex())
    with counted(most=CUTS):
        run(*words, "--ridge", "0.2", code=130)
    assert digest((place / "kept").read_bytes().hex()) == whole


def test_a_run_that_finished_nothing_says_that_nothing_was_changed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("surgery.engine.cut.calibration_run.collect", interrupt)
    told = cut("out", code=130).stderr
    assert "nothing was changed" in told and "--resume" not in told
    assert not staging_path(place / "out").exists()
