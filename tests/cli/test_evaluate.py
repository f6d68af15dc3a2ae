"""The table of ``surgery evaluate`` fits a terminal and says what the document says."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from surgery.evaluation.bootstrap import Estimate
from surgery.evaluation.results import DataSet, Evaluated, Evaluation, Row, from_json
from surgery.micro.assets import DIRECTORY
from surgery_cli.evaluation import evaluation_view
from surgery_cli.main import app
from tests.engine.spoken import save_spoken

LONG = "some-folder/whisper-large-v3-absorb-decompose-ragged-46-percent"


def drawn(found: Evaluation, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), legacy_windows=False)
    console.print(evaluation_view(found), crop=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_document_and_the_table_are_of_one_evaluation(tmp_path: Path) -> None:
    words = ["evaluate", "whisper-micro", "whisper-micro", "--data", str(DIRECTORY / "test")]
    options = ["--limit", "3", "--resamples", "20", "-o", str(tmp_path / "found.json"), "--json"]
    run = CliRunner().invoke(app, [*words, *options])
    assert run.exit_code == 0, run.output
    assert run.stdout == (tmp_path / "found.json").read_text()
    found = from_json(run.stdout)
    assert found.settings["resamples"] == 20 and found.settings["limit"] == 3
    shown = drawn(found)
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "whisper_micro/test" in shown and "····" in shown
    assert "3 recordings make intervals too narrow" in shown

    plain = CliRunner().invoke(app, [*words, "--limit", "1"], env={"COLUMNS": "80"})
    assert plain.exit_code == 0
    assert "WER %" in plain.stdout and "encoder" in plain.stdout
    assert all(len(line) <= 80 for line in plain.stdout.splitlines())


def test_bad_requests_have_exit_codes_and_are_json_where_asked() -> None:
    run = CliRunner().invoke(app, ["evaluate", "whisper-micro", "--data", "nowhere", "--json"])
    assert run.exit_code == 1
    assert "nowhere" in json.loads(run.stdout)["error"]["where"]
    assert CliRunner().invoke(app, ["evaluate", "whisper-micro"]).exit_code == 2
    refused = ["evaluate", "whisper-micro", "--data", "x", "--device", "abacus"]
    assert CliRunner().invoke(app, refused).exit_code == 2


def wide(value: float, spread: float) -> Estimate:
    return Estimate(value, value - spread, value + spread)


def made_up(kind: str, *, leaked: bool = False) -> Evaluation:
    """Many models of long names, with figures as wide as they come."""
    figures = {
        "speech": {"wer": wide(101.26, 13.7), "same_text": wide(37.4, 12.2)},
        "text": {"perplexity": wide(12345.678, 2345.6), "bits_per_byte": wide(11.234, 1.1)},
        "embedding": {"embedding_error": Estimate(1.234), "pooled_distance": wide(0.0123, 0.001)},
    }[kind]
    times = {"time": Estimate(1234.5), "time_ratio": wide(10.25, 2.1)}
    if kind == "speech":
        times |= {"encoder_time": Estimate(321.0), "encoder_time_ratio": wide(0.93, 0.02)}
        figures |= {"encoder_error": Estimate(float("inf"))}
    if kind == "text":
        figures |= {"output_error": Estimate(3.2e-7), "kl_divergence": Estimate(1.2e-13)}
    names = ["reference", LONG, "other"]
    models = [Evaluated(name, name, 1_543_490_560 - at, []) for at, name in enumerate(names)]
    data = [DataSet(f"{LONG}/{at}", "x", 60, 151.0, "recordings") for at in (0, 1)]
    changed = {"speech": "wer", "text": "perplexity"}.get(kind)
    rows = []
    for one in data:
        rows.append(Row(names[0], one.name, False, figures | {"time": times["time"]} | times))
        for name in names[1:]:
            changes = {} if changed is None else {changed: wide(-1234.5, 333.3)}
            layers = {"encoder": [0.0, 0.0, 0.0, *(0.01 * layer for layer in range(1, 48))]}
            rows.append(Row(name, one.name, leaked, figures | times, changes, layers))
    settings = {"resamples": 2000, "device": "cpu"}
    return Evaluation(kind, models, data, rows, settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("kind", ["speech", "text", "embedding"])
def test_wide_figures_and_long_names_fit_narrow_screens(kind: str, width: int) -> None:
    found = made_up(kind)
    shown = drawn(found, width)
    assert max(map(len, shown.splitlines())) <= width
    figures = [word for word in drawn(found, 200).split() if re.match(r"[\d+−·].*\d", word)]
    assert figures and all(figure in shown for figure in figures)
    assert "LEAKED" not in shown
    assert "…ose-ragged-46-p" in shown
    assert "·" in shown and "█" in shown
    assert from_json(found.to_json()).to_json() == found.to_json()


def test_leaked_rows_are_marked_without_colours() -> None:
    assert drawn(made_up("speech", leaked=True)).count("LEAKED") == 4


def test_a_change_that_could_be_none_is_not_coloured() -> None:
    def styles(low: float, high: float) -> str:
        found = made_up("speech")
        estimate = Estimate((low + high) / 2, low, high)
        for row in found.rows:
            row.changes.update({"wer": estimate} if row.changes else {})
        console = Console(
            width=80, file=io.StringIO(), force_terminal=True, color_system="standard"
        )
        console.print(evaluation_view(found))
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    red, green = "\x1b[1;31m", "\x1b[1;32m"
    assert red in styles(1.0, 2.0) and green in styles(-2.0, -1.0)
    unsure = styles(-1.0, 2.0)
    assert red not in unsure and green not in unsure


def test_the_table_says_what_a_document_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_spoken("llama", tmp_path / "model")
    Path("text.txt").write_text("a line of words\nanother line of words\n")

    def legend(*words: str) -> str:
        base = ["evaluate", "model", "--data", "text.txt", "--resamples", "5"]
        run = CliRunner().invoke(app, [*base, *words], env={"COLUMNS": "80"})
        assert run.exit_code == 0, run.output
        return " ".join(run.stdout.split())

    assert "1 document (a file)" in legend()
    assert "2 documents (each a line)" in legend("--text", "lines")
    assert "Windows: at most 64 tokens" in legend("--text", "running")
