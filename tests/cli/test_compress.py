"""Compress, as a person types it: every option is heard, and the view is the report's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import surgery
from surgery.engine.compress.options import CompressOptions
from surgery.report.model.report import Report
from surgery.report.text.summary import sentence
from surgery_cli.main import app
from tests.report.feed_forward_factory import make_narrower


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What reached the library.

    A stand-in for ``surgery.compress``: what that does is tested in ``tests/engine``.
    """
    told: dict[str, Any] = {}

    def stand_in(model: str, out: Path | None = None, **given: Any) -> Report:
        told.update(model=model, out=out, **given)
        return make_narrower("tiny", dry=bool(given.get("dry_run")))

    monkeypatch.setitem(vars(surgery), "compress", stand_in)
    return told


def run(*words: str, fails: int = 0) -> Result:
    done = CliRunner().invoke(app, ["compress", *words], env={"COLUMNS": "80"})
    assert done.exit_code == fails, done.output
    return done


def test_every_option_reaches_the_library(heard: dict[str, Any]) -> None:
    words = ["model", "-o", "out", "--remove", "15%", "--of", "ffn", "--multiple", "256"]
    words += ["--layout", "ragged", "--scope", "decoder"]
    words += ["--order", "magnitude", "--no-refit", "--ridge", "0.1", "--no-sequential"]
    words += ["--layers", "2", "--layer-order", "influence"]
    words += ["--calibrate", "clips", "--samples", "3", "--language", "de", "--device", "cpu"]
    words += ["--dtype", "float16", "--data", "test.txt", "--allow-leakage", "--force"]
    run(*words, "--resume", "--revision", "main", "--dry-run")
    assert heard.pop("options") == CompressOptions(
        remove=0.15,
        of="ffn",
        layout="ragged",
        scope="decoder",
        multiple=256,
        order="magnitude",
        refit=False,
        ridge=0.1,
        sequential=False,
        layers="2",
        layer_order="influence",
        calibrate="clips",
        samples=3,
        language="de",
        device="cpu",
        dtype="float16",
    )
    assert callable(heard.pop("progress"))
    assert heard == {
        "model": "model",
        "out": Path("out"),
        "data": "test.txt",
        "allow_leakage": True,
        "force": True,
        "resume": True,
        "dry_run": True,
        "revision": "main",
    }


@pytest.mark.parametrize("aim", [("target_parameters", "90M"), ("target_size", "95MiB")])
def test_a_target_stands_for_a_share(heard: dict[str, Any], aim: tuple[str, str]) -> None:
    run("model", "--" + aim[0].replace("_", "-"), aim[1])
    assert heard["options"] == CompressOptions(**dict([aim]))
    assert heard["options"].remove is None


def test_a_bound_may_stand_beside_the_most_that_goes(heard: dict[str, Any]) -> None:
    run("model", "--within", "WER+1", "--remove", "30%")
    assert heard["options"] == CompressOptions(within="WER+1", remove=0.3)


def test_by_default_options_are_the_librarys_own(heard: dict[str, Any]) -> None:
    shown = run("model").output
    assert heard["options"] == CompressOptions()
    assert heard["out"] is None and not heard["allow_leakage"]
    assert sentence(make_narrower("tiny")) in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


def test_json_is_the_report_and_nothing_else(heard: dict[str, Any]) -> None:
    done = run("model", "--json")
    report = json.loads(done.stdout)
    assert (report["schema"], report["method"]) == (1, "compress")
    assert len(report["feed_forward"]) == 8
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--remove", "0"], "--remove is out of range"),
        (["--remove", "100%"], "--remove is out of range"),
        (["--remove", "some"], "is no fraction"),
        (["--of", "attention"], "is not one of"),
        (["--of", "ffn", "--target-size", "9MB"], "there is no --remove"),
        (["--remove", "5%", "--target-parameters", "9M"], "one of them"),
        (["--target-size", "9 parsecs"], "a size such as 100MB"),
        (["--scope", "cross"], "is not one of"),
        (["--within", "WER*2"], "a bound such as WER+1"),
        (["--within", "WER+2", "--target-size", "1MB"], "a bound is kept"),
        (["--layout", "tied"], "is not one of"),
        (["--order", "chance"], "is not one of"),
        (["--multiple", "0"], "0 is not at least 1"),
        (["--ridge", "inf"], "--ridge is out of range"),
    ],
)
def test_wrong_turns_say_what_to_do(heard: dict[str, Any], words: list[str], message: str) -> None:
    assert message in " ".join(run("model", *words, fails=2).stderr.split())
    assert not heard
