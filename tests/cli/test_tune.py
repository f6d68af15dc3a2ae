"""``surgery tune`` as a person types it, and what it says where something is wrong."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import surgery
from surgery.checkpoint.commit import staging_path
from surgery.micro.assets import DIRECTORY as MICRO
from surgery_cli.main import app
from tests.engine.support import contents, save_tiny
from tests.training.runs import LENGTH, save_model, write_text

pytestmark = pytest.mark.usefixtures("no_pictures")

COMMON = ["--steps", "2", "--batch", "8", "--length", str(LENGTH), "--device", "cpu"]


def tune(*words: str, fails: int = 0) -> Result:
    result = CliRunner().invoke(app, ["tune", *words], env={"COLUMNS": "80"})
    assert result.exit_code == fails, result.output
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny models, one with two kinds of parts, and data, good and bad."""
    folder = tmp_path_factory.mktemp("made")
    save_model("llama", folder / "model")
    save_tiny("bert", folder / "bert")
    write_text(folder / "text.jsonl")
    surgery.split(folder / "model", folder / "split", rank=2, targets=["q"])
    surgery.reparam(folder / "split", folder / "both", method="goft", targets=["down"])
    lines = (folder / "text.jsonl").read_text().splitlines()
    lines[4] = '{"txet": "a slip of the pen"}'
    (folder / "slip.jsonl").write_text("\n".join(lines))
    shutil.copytree(MICRO, folder / "micro", ignore=shutil.ignore_patterns("test"))
    (folder / "clips").mkdir()
    for name in ("dialled-00.flac", "dialled-01.flac"):
        shutil.copy(MICRO / "test" / name, folder / "clips")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: the same."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_tuned_and_merged_and_asked_for_again(here: Path) -> None:
    words = ["split", "--data", "text.jsonl", "--held-out", "0.25", "--seed", "3", *COMMON]
    words += ["--also", "norms", "--eval-data", "other.txt"]
    (here / "other.txt").write_text("a bad cab had a bag\n" * 9)
    shown = tune(*words, "-o", "tuned").stdout
    assert all(len(line) <= 80 or str(here) in line for line in shown.splitlines())
    for said in ("sorsa", "trainable", "Perplexity", "held out"):
        assert said in shown
    report = json.loads((here / "tuned" / "report.json").read_text())
    assert report["tuning"]["settings"]["accumulate"] == 1
    again = shlex.split(report["command"])
    assert again[:2] == ["surgery", "tune"]
    assert "Already done" in tune(*again[2:]).stdout
    assert json.loads(tune(*words, "-o", "tuned", "--json").stdout)["tuning"] == report["tuning"]
    merged = CliRunner().invoke(app, ["merge", "tuned", "-o", "plain"])
    assert merged.exit_code == 0, merged.output
    assert not (here / "plain" / "adapter.json").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("model --data text.jsonl", 2, "say what is to be trained"),
        ("both --data text.jsonl", 2, "carries several"),
        ("split --data text.jsonl --train core", 2, "carries another"),
        ("split --data text.jsonl --rank 4", 2, "leave these out"),
        ("model --train core --data text.jsonl --rank 4", 2, "says nothing about core"),
        ("model --train core --data text.jsonl --penalty 0.1", 2, "no regulariser"),
        ("model --train sorsa --data text.jsonl --batch 8 --micro-batch 3", 2, "does not divide"),
        ("model --train sorsa --data text.jsonl --recipe sorcery", 2, "no such recipe"),
        ("model --train sorsa --data text.jsonl --held-out 1", 2, "nothing to train on"),
        ("model --train sorsa --data text.jsonl --epochs 1", 2, "not both"),
        ("model --train sorsa --data text.jsonl --lr -1", 2, "out of its range"),
        ("model --train sorsa --data text.jsonl --length 65", 2, "longer than the model can see"),
        ("model --train lora --data text.jsonl --also norms", 2, "trains nothing beside"),
        ("model --train hra --data text.jsonl --reflections 3", 2, "cannot start"),
        ("model --train sorsa --data text.jsonl --precision fp16 --device cpu", 2, "accelerator"),
        ("model --train sorsa --data text.jsonl --dtype bfloat16 --also norms", 2, "too few bits"),
        ("model --train sorsa --data slip.jsonl", 1, "slip.jsonl, line 5"),
        ("model --train sorsa --data clips", 1, "no text here"),
        ("model --train sorsa --data nowhere.txt", 2, "no such training data"),
        ("model --train sorsa --data text.jsonl --eval-data text.jsonl", 2, "learnt from"),
        ("micro --train core --data text.jsonl", 2, "a folder of audio"),
        ("micro --train core --data clips", 1, "transcripts.tsv"),
        ("bert --train sorsa --data text.jsonl", 1, "Only causal language models and Whisper"),
        ("nowhere --train sorsa --data text.jsonl", 1, "nowhere"),
    ],
)
def test_wrong_turns_say_what_to_do_and_leave_nothing(
    here: Path, words: str, code: int, said: str
) -> None:
    before = contents(here)
    extra = [] if "--length" in words else ["--length", str(LENGTH)]
    told = tune(*words.split(), "--steps", "1", *extra, "-o", "out", fails=code).stderr
    assert said in " ".join(told.split())
    assert contents(here) == before


def test_lora_without_peft_says_how_to_get_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    before = contents(here)
    words = ["model", "--train", "lora", "--data", "text.jsonl", *COMMON, "-o", "out"]
    told = tune(*words, fails=2).stderr
    assert "pip install 'model-surgery[peft]'" in told
    assert contents(here) == before


def test_tensorboard_has_to_be_installed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgery.training.tensorboard.is_tensorboard_available", lambda: False)
    before = contents(here)
    words = ["split", "--data", "text.jsonl", "--tensorboard", *COMMON, "-o", "out"]
    assert "pip install tensorboard" in tune(*words, fails=2).stderr
    assert contents(here) == before


def test_an_adapter_is_merged_before_it_is_tuned_again(here: Path) -> None:
    tune("split", "--data", "text.jsonl", *COMMON, "-o", "tuned")
    told = tune("tuned", "--data", "text.jsonl", *COMMON, "-o", "out", fails=1).stderr
    assert "surgery merge" in " ".join(told.split())
    assert not (here / "out").exists()


def test_ctrl_c_says_how_to_go_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    words = ["model", "--train", "goft", "--data", "text.jsonl", *COMMON, "-o", "out"]
    with monkeypatch.context() as patch:
        patch.setattr("surgery.training.tune.learn", interrupt)
        told = tune(*words, fails=130).stderr
    assert "--resume" in told and "nothing was changed" not in told
    assert not (here / "out").exists()
    assert (staging_path(here / "out") / "base" / "config.json").exists()
    tune(*words, "--resume")
    assert (here / "out" / "adapter.json").exists()


def test_ctrl_c_says_which_state_is_kept(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(told: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == 2:
            raise KeyboardInterrupt

    words = ["split", "--data", "text.jsonl", *COMMON, "--save-every", "1", "-o", "out"]
    with monkeypatch.context() as patch:
        patch.setattr("surgery.training.trainer.Told.on_step_end", interrupt)
        told = "".join(tune(*words, fails=130).stderr.split())
    assert "thestateofstep1,in" in told and "training/checkpoint-1" in told
    assert "--resume" in told
    assert "from step 1" in tune(*words, "--resume").stdout
