"""Split, re-parameterise, merge by steps, export and import, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from surgery_cli.main import app
from tests.engine.support import config_of, contents, save_tiny

QUARTER = ("--remove", "25%", "--by-weights", "--pairs", "vo")


def surgery(*words: str, fails: int = 0) -> Result:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == fails, result.output
    return result


def printed(*words: str) -> Any:
    return json.loads(surgery(*words, "--json").stdout)


PRUNED = ["model", "-o", "pruned", "--remove", "25%", "--by-weights", "--pairs", "vo"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a tiny LLaMA in it."""
    monkeypatch.chdir(tmp_path)
    save_tiny("llama", tmp_path / "model")
    return tmp_path


def test_from_a_model_to_an_adapter_and_back(here: Path) -> None:
    surgery("absorb-decompose", *PRUNED)
    shown = surgery("split", "pruned", "--rank", "4", "--targets", "q,up", "-o", "split").output
    assert "4 linear maps" in shown
    assert "trainable" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    surgery("reparam", "split", "--method", "goft", "--targets", "down", "-o", "both")
    assert (here / "both" / "report.html").exists()

    assert printed("merge", "both", "--steps", "1", "-o", "one") == {"output": "one"}
    assert len(config_of(here / "one")["surgery"]["operations"]) == 2
    made = printed("export", "one", "--to", "peft", "--original", "pruned", "-o", "adapter")
    what, worst, on = made["notes"]
    assert what.startswith("LORA adapter of 4 modules") and on == "It belongs on pruned."
    assert float(worst.split()[-1][:-1]) < 1e-6
    report = printed("import", "pruned", "--adapter", "adapter", "-o", "back")
    assert report["method"] == "pissa"
    assert "adapter" in surgery("import", "pruned", "--adapter", "adapter", "-o", "back").output
    found = printed("verify", "one", "back", "--weights-only")
    assert found["worst"] < 1e-6


@pytest.mark.parametrize("method", ["core", "diagonal"])
def test_heads_get_something_behind_them_and_merge_back(here: Path, method: str) -> None:
    surgery("absorb-decompose", *PRUNED)
    words = ["reparam", "pruned", "--method", method, "--pairs", "vo,qk", "-o", "out"]
    shown = surgery(*words).output
    assert "unchanged at the start" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    page = (here / "out" / "report.html").read_text()
    assert "Spectra of the " + {"core": "cores", "diagonal": "heads"}[method] in page
    report = json.loads((here / "out" / "report.json").read_text())
    surgery(*report["command"].split()[1:-1], "again")
    assert (here / "again" / "model.safetensors").read_bytes() == (
        here / "out" / "model.safetensors"
    ).read_bytes()

    surgery("merge", "out", "--steps", "1", "-o", "one")
    assert printed("verify", "pruned", "one", "--weights-only")["worst"] < 1e-6
    refused = surgery("export", "out", "--to", "peft", "-o", "adapter", fails=1).output
    assert f"no form for {method}" in refused


def test_the_report_names_the_command_that_asks_for_the_same(here: Path) -> None:
    words = ["split", "model", "--method", "pissa", "--rank", "3", "--targets", "q,v"]
    first = printed(*words, "--seed", "4", "-o", "out")
    words = first["command"].split()[1:]
    words[words.index("-o") + 1] = "again"
    surgery(*words)
    one, other = contents(here / "out"), contents(here / "again")
    assert one["model.safetensors"] == other["model.safetensors"]


def test_defaults_are_written_beside_checkpoints(here: Path) -> None:
    surgery("reparam", "model")
    assert (here / "checkpoints" / "model-hra" / "model.safetensors").exists()
    again = surgery("reparam", "model").output
    assert "Already done" in again


def test_a_dry_run_shows_everything_and_writes_nothing(here: Path) -> None:
    before = contents(here)
    shown = surgery("split", "model", "--rank", "4", "--dry-run").output
    assert "would" in shown
    assert contents(here) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["split", "model", "--rank", "4", "--targets", "x"], "not one of its choices"),
        (["split", "model", "--rank", "40"], "exceeds 32"),
        (["split", "model", "--rank", "4", "--scope", "encoder"], "no encoder blocks"),
        (["reparam", "model", "--reflections", "3"], "cannot start"),
        (
            ["reparam", "model", "--method", "goft", "--reflections", "2"],
            "no use for --reflections",
        ),
        (["merge", "model"], "dense already"),
    ],
)
def test_wrong_turns_say_what_to_do_and_leave_nothing(
    here: Path, words: list[str], message: str
) -> None:
    before = contents(here)
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 2
    assert message in shown.stderr
    assert contents(here) == before


def test_an_adapter_that_is_not_there_is_an_error(here: Path) -> None:
    shown = surgery("import", "model", "--adapter", "nowhere", "-o", "out", fails=1)
    assert "adapter_config.json" in shown.stderr.replace("\n", "")
    assert not (here / "out").exists()
