"""A budget of one pair is told as a share of that pair, wherever it is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import surgery
from surgery.choices.rules import SeamName
from surgery.report.html import to_html
from surgery.report.model.report import Report
from surgery.report.wording import percent
from surgery_cli.main import app
from tests.engine.spoken import TEXT, save_spoken


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_spoken("gpt2", tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT * 4)


def cut(*pairs: SeamName) -> Report:
    options = surgery.Options(
        surgery.Remove(0.25), pairs=pairs, calibrate=surgery.Calibrate("text.txt")
    )
    return surgery.absorb_decompose("model", dry_run=True, options=options)


def shown(*more: str) -> str:
    words = ["absorb-decompose", "model", "--remove", "25%", "--dry-run", *more]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 80
    return " ".join(done.stdout.split())


@pytest.mark.parametrize("pair", ["vo", "qk"])
def test_headline_prices_and_parameters_speak_of_the_pair(pair: SeamName) -> None:
    report = cut(pair)
    savings = {one.name: one for one in report.savings}
    # Either pair is half of attention, but for biases; a step more may go than was asked.
    assert 0.25 <= savings[pair].removed < 0.3
    assert savings["attention"].removed == pytest.approx(savings[pair].removed / 2, rel=0.03)
    # The curve counts as the budget does: this cut's own point is on it.
    assert report.calibration is not None
    curve = [one.removed for one in report.calibration.prices if one.layout == "ragged"]
    assert min(abs(removed - savings[pair].removed) for removed in curve) < 1e-9

    name, text = pair.upper(), shown("--pairs", pair, "--calibrate", "text.txt")
    share = percent(savings[pair].removed)
    assert f"{share} of the {name} parameters in scope would go" in text
    assert f"{percent(savings['attention'].removed)} of all attention there" in text
    assert f"Price of removing {name}" in text
    assert f"{name} in scope ({', '.join(name)})" in text
    page = to_html(report)
    assert f"{name} parameters removed" in page
    assert f"share of the {name} parameters in scope removed" in page


def test_both_pairs_are_the_attention() -> None:
    assert [one.name for one in cut("qk", "vo").savings] == ["attention", "decoder", "model"]
    text = shown("--by-weights")
    assert "of the attention parameters in scope would go" in text
    assert "VO in scope" not in text


@pytest.mark.slow
def test_a_search_says_what_its_budgets_are_of() -> None:
    text = shown("--pairs", "vo", "--calibrate", "text.txt")
    assert "Search" not in text
    words = ["absorb-decompose", "model", "--up-to", "50%", "--pairs", "vo", "--dry-run"]
    done = CliRunner().invoke(app, [*words, "--no-trials"], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    text = " ".join(done.stdout.split())
    assert "Search: removed of VO" in text and "no more than 50.0 % of the VO" in text
