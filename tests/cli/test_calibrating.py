"""Calibration on the command line: every option is heard, and every wrong turn is told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from surgery.engine.cut import pricing
from surgery_cli.main import app
from tests.engine.spoken import OTHER_TEXT, TEXT, save_clips, save_listener, save_spoken
from tests.engine.support import config_of, contents


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> Path:
    """The current folder: models that read and hear, and what to read and to hear."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pricing, "BUDGETS", (0.25, 0.5))
    save_spoken("llama", tmp_path / "llama")
    save_listener(tmp_path / "whisper")
    save_clips(tmp_path / "clips", range(2))
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "other.txt").write_text(OTHER_TEXT)
    (tmp_path / "empty").mkdir()
    return tmp_path


def run(*words: str) -> Any:
    return CliRunner().invoke(app, words, env={"COLUMNS": "80"})


def test_every_option_reaches_the_result() -> None:
    asked = ["--remove", "10%", "--of", "tower", "--calibrate", "clips", "--samples", "1"]
    asked += ["--statistics", "kept", "--padding-weight", "0.25", "--ridge", "0.1"]
    asked += ["--as-recorded", "--language", "english", "--device", "cpu", "--layout", "block"]
    done = run("absorb-decompose", "whisper", "-o", "out", *asked)
    assert done.exit_code == 0, done.output
    operation = config_of(Path("out"))["surgery"]["operations"][0]
    told = operation["options"]
    expected = {"remove": 0.1, "of": "tower", "samples": 1, "padding_weight": 0.25, "ridge": 0.1}
    expected |= {"as_recorded": True, "language": "english", "layout": "block"}
    assert {key: told[key] for key in expected} == expected
    assert told["calibrate"].endswith("/clips") and told["statistics"] == "kept"
    assert len(operation["provenance"]["calibration"]["samples"]) == 1
    report = json.loads(Path("out/report.json").read_text())
    calibration = report["calibration"]
    assert (calibration["padding_weight"], calibration["ridge"]) == (0.25, 0.1)
    assert calibration["output"] == "encoder output" and calibration["samples"] == 1
    assert "Calibrated on" in done.output and "This cut" in done.output
    assert max(map(len, done.stdout.splitlines())) <= 80

    # The command that is shown asks for the same; with nothing left to do.
    again = run("absorb-decompose", "whisper", "-o", "out", *asked)
    assert again.exit_code == 0 and "Already done" in again.output
    alone = run("absorb-decompose", "whisper", "--statistics", "kept", "--ridge", "0.1", "--json",
                "--dry-run")  # fmt: skip
    assert alone.exit_code == 0, alone.output
    assert json.loads(alone.stdout)["calibration"]["measured"] is None
    assert not Path("checkpoints").exists()


def test_bounds_are_searched_from_the_command_line() -> None:
    was = {*os.listdir()}
    words = ["absorb-decompose", "llama", "--calibrate", "text.txt", "--dry-run"]
    by_error = run(*words, "--max-error", "0.02", "--statistics", "kept")
    assert by_error.exit_code == 0, by_error.output
    assert "the largest cut with" in " ".join(by_error.stdout.split())
    assert "within the bound" in by_error.stdout
    by_perplexity = run(*words, "--max-ppl-increase", "150%", "--json", "--statistics", "kept")
    assert by_perplexity.exit_code == 0, by_perplexity.output
    found = json.loads(by_perplexity.stdout)
    assert found["options"]["max_ppl_increase"] == 1.5
    assert found["calibration"]["bound"] == "max_ppl_increase" and found["calibration"]["search"]
    assert {*os.listdir()} - was == {"kept"}


def test_inspect_shows_the_price_of_every_layout() -> None:
    was = contents(Path("llama"))
    words = ["inspect", "llama", "--calibrate", "text.txt", "--statistics", "kept"]
    shown = run(*words, "--html", "page.html")
    assert shown.exit_code == 0, shown.output
    head = next(line for line in shown.stdout.splitlines() if "Price of removing" in line)
    assert head.split()[-3:] == ["ragged", "block", "tied"]
    assert "measured in brackets" in " ".join(shown.stdout.split())
    assert Path("page.html").is_file() and contents(Path("llama")) == was
    document = run(*words, "--layout", "tied", "--json")
    prices = json.loads(document.stdout)["calibration"]["prices"]
    assert {price["layout"] for price in prices} == {"ragged", "block", "tied"}
    assert {price["layout"] for price in prices if price["measured"] is not None} == {"tied"}


CALIBRATED = ["--calibrate", "text.txt"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--by-weights", "--ridge", "0.1"], 2, "takes no input"),
        (["--by-weights", "--max-error", "0.1"], 2, "needs real input"),
        (["--by-weights", "--up-to", "10%"], 2, "needs real input"),
        (["--statistics", "text.txt", "--samples", "3"], 2, "saved ones are to be used"),
        (["--statistics", "text.txt"], 1, "no safetensors"),
        (["--statistics", "kept"], 1, "no such file"),
        (["--baseline", "magnitude", "--max-error", "0.1"], 2, "keeps no bound"),
        (["--device", "abacus"], 2, "no such device"),
        (["--of", "model"], 2, "there is no --remove"),
        ([*CALIBRATED, "--threshold-vo", "0.1"], 2, "weights alone"),
        ([*CALIBRATED, "--baseline", "magnitude"], 2, "no use for calibration"),
        ([*CALIBRATED, "--remove", "9%", "--max-error", "1"], 2, "--remove and --max-error"),
        ([*CALIBRATED, "--remove", "9%", "--per-pair", "--of", "model"], 2, "--per-pair"),
        ([*CALIBRATED, "--remove", "95%"], 2, "at most 87.50%"),
        ([*CALIBRATED, "--remove", "50%", "--of", "model"], 2, "at most 31.52%"),
        ([*CALIBRATED, "--max-wer-increase", "1"], 2, "model that hears"),
        ([*CALIBRATED, "--device", "abacus"], 2, "no such device"),
        ([*CALIBRATED, "--device", "cuda:99"], 2, "no such device"),
        ([*CALIBRATED, "--statistics", "other.txt"], 1, "no safetensors"),
        ([*CALIBRATED, "--data", "text.txt"], 2, "--allow-leakage"),
        ([*CALIBRATED, "--data", "nowhere"], 2, "no such file"),
        (["--calibrate", "clips"], 1, "no text here"),
        (["--calibrate", "clips/dialled-00.flac"], 1, "this is a recording"),
        (["--calibrate", "empty"], 1, "no text here"),
        (["--calibrate", "nowhere"], 1, "cannot be read"),
        (["--calibrate", "llama/model.safetensors"], 1, "cannot be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_turns_of_a_text_model_are_told_before_any_work(
    words: list[str], code: int, told: str
) -> None:
    refused("llama", words, code, told)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--calibrate", "text.txt"], 1, "this is no recording"),
        (["--calibrate", "llama"], 1, "no recordings here"),
        (["--calibrate", "empty"], 1, "no recordings here"),
        (["--calibrate", "nowhere"], 1, "no such folder"),
        (["--calibrate", "clips", "--max-ppl-increase", "1%"], 2, "predicts text"),
        (["--calibrate", "clips", "--data", "clips"], 2, "--allow-leakage"),
        (["--calibrate", "clips", "--data", "text.txt"], 2, "folder of audio"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_turns_of_a_whisper_are_told_before_any_work(
    words: list[str], code: int, told: str
) -> None:
    refused("whisper", words, code, told)


def refused(model: str, words: list[str], code: int, told: str) -> None:
    was = {*os.listdir()}
    done = run("absorb-decompose", model, "-o", "out", *words)
    assert done.exit_code == code, done.output
    assert isinstance(done.exception, SystemExit)
    assert told in " ".join(done.stderr.split()).replace("- ", "-")
    assert "Calibrating" not in done.stderr and "Decomposing" not in done.stderr
    assert {*os.listdir()} == was


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--samples", "0"),
        ("--padding-weight", "1.5"),
        ("--ridge", "-0.1"),
        ("--ridge", "nan"),
        ("--max-error", "-1"),
        ("--max-ppl-increase", "-1%"),
        ("--max-ppl-increase", "much"),
        ("--of", "layer"),
    ],
)
def test_values_out_of_range_are_told_with_the_options_name(option: str, value: str) -> None:
    done = run("absorb-decompose", "llama", *CALIBRATED, option, value, "-o", "out")
    assert done.exit_code == 2
    assert option in done.stderr.replace("\n", " ")
    assert not Path("out").exists()
