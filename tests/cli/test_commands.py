"""The command line as a person and as a program meet it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from surgery_cli.main import app
from tests.engine.support import contents, save_tiny

COMMANDS = (
    "absorb-decompose",
    "compress",
    "inspect",
    "merge",
    "split",
    "reparam",
    "export",
    "import",
    "verify",
    "evaluate",
)
MAIN = [sys.executable, "-c", "from surgery_cli.main import main; main()"]


def surgery(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def spawn(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A real process without a terminal."""
    return subprocess.run(
        [*MAIN, *words],
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a tiny LLaMA in it."""
    monkeypatch.chdir(tmp_path)
    save_tiny("llama", tmp_path / "model")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_parse(command: str) -> None:
    shown = surgery(command, "--help")
    assert shown.exit_code == 0
    assert "Examples" in shown.output
    assert shown.output.count(f"surgery {command}") >= 3
    assert surgery(command, "-h").output == shown.output
    assert all(len(line) <= 80 for line in shown.output.splitlines())


def test_the_version_and_the_commands_are_told() -> None:
    assert re.fullmatch(r"surgery \d+\.\d+\.\d+\n", surgery("--version").output)
    shown = surgery("--help").output
    assert all(command in shown for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("absorb-decompose m --layout x", "'x' is not one of 'ragged', 'block'"),
        ("absorb-decompose m --remove x%", "'x%' is no fraction: write 25% or 0.25"),
        ("absorb-decompose m --multiple x", "x"),
        ("absorb-decompose m --multiple 0", "0 is not"),
        ("tune m --data d --lr x", "x"),
        ("evaluate m --data d --limit 1.5", "1.5"),
        ("export m --to x", "x"),
        ("verify m", "Missing argument"),
    ],
)
def test_bad_values_are_told_with_what_was_given_and_in_our_words(words: str, told: str) -> None:
    for json_too in ((), ("--json",)):
        found = surgery(*words.split(), *json_too)
        assert found.exit_code == 2
        said = " ".join(found.output.replace("│", " ").split())
        assert told in said
        assert "Value error" not in said and "Input should" not in said


def test_help_imports_no_torch() -> None:
    code = "import sys; from surgery_cli.main import main\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, "--help"], check=True, capture_output=True)


def test_cutting_by_weights_imports_nothing_that_runs_models() -> None:
    code = "import sys, surgery.engine.cut.absorb, surgery.engine.parts.split\n"
    code += "import surgery.engine.measure.verify\n"
    code += "assert not {'transformers', 'scipy.signal', 'soundfile'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_json_is_one_document_and_nothing_else(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = surgery("absorb-decompose", "model", "-o", "out", "--by-weights", "--json")
    assert run.exit_code == 0, run.stderr
    there = json.loads(Path("out/report.json").read_text())
    told = json.loads(run.stdout) | {"seconds": {}}
    told["command"] = told["command"].replace(" model ", " ./model ")
    assert told == there
    assert run.stderr == ""

    for words in (
        ["absorb-decompose", "model", "-o", "out", "--by-weights"],  # already done
        ["absorb-decompose", "model", "--dry-run", "--by-weights"],
        ["inspect", "model"],
        ["inspect", "model", "--structure"],
    ):
        again = surgery(*words, "--json")
        assert again.exit_code == 0
        assert json.loads(again.stdout)["schema"] == 1
        assert again.stderr == ""
    verified = surgery("verify", "model", "out", "--weights-only", "--json")
    assert json.loads(verified.stdout)["worst"] < 1
    merged = surgery("merge", "out", "-o", "dense", "--json")
    assert json.loads(merged.stdout) == {"output": "dense"}
    assert capfd.readouterr() == ("", "")  # what goes past Python's own streams


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["absorb-decompose", "nothing-like-it"], 1),
        (["absorb-decompose", "model", "--lossless", "--energy", "0.9"], 2),
        (["absorb-decompose", "model", "--remove", "much"], 2),
        (["absorb-decompose", "model", "--layout", "round"], 2),
        (["absorb-decompose"], 2),
        (["inspect", "model", "--multiple", "0"], 2),
        (["verify", "model", "nothing-like-it"], 1),
        (["merge", "model"], 2),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else " ".join(value),
)
def test_errors_have_exit_codes_and_are_json_where_asked(
    here: Path, words: list[str], code: int
) -> None:
    plain = surgery(*words)
    assert plain.exit_code == code
    assert plain.stdout == ""
    assert plain.stderr.strip()
    assert "Traceback" not in plain.stderr
    document = surgery(*words, "--json")
    assert document.exit_code == code
    assert json.loads(document.stdout)["error"]["message"]
    assert sorted(os.listdir()) == ["model"]


def test_a_file_that_is_not_there_is_told_without_an_error_number(here: Path) -> None:
    found = surgery("evaluate", "model", "--data", "nowhere.txt")
    assert "No such file or directory" in found.stderr and "Errno" not in found.stderr
    lost = surgery("absorb-decompose", "model", "--statistics", "lost", "-o", "out")
    assert "give --calibrate" in lost.stderr and sorted(os.listdir()) == ["model"]


def test_without_a_terminal_lines_are_plain_and_fit_80_columns(here: Path) -> None:
    run = spawn("absorb-decompose", "model", "-o", "out", "--remove", "10%", "--by-weights")
    assert run.returncode == 0, run.stderr
    out, err = run.stdout.decode(), run.stderr.decode()
    assert "\x1b" not in out + err
    assert "\r" not in out + err
    assert all(len(line) <= 80 for line in out.splitlines())
    stages = [line.partition(" (")[0] for line in err.splitlines()]
    assert [stage.removesuffix(": done") for stage in stages] == [
        *("Decomposing attention", "Writing", "Hashing the source", "Storing the result on disk")
    ]
    assert "Attention in scope" in out
    assert "out/report.html" in out


def test_colour_can_be_had_and_refused(here: Path) -> None:
    words = ["inspect", "model", "--structure"]
    colour = re.compile(r"\x1b\[(\d+;)*3\dm")
    forced = {"FORCE_COLOR": "1", "TERM": "xterm", "NO_COLOR": None}
    assert colour.search(CliRunner(env=forced).invoke(app, words).stdout)
    refused = {**forced, "NO_COLOR": "1"}
    assert not colour.search(CliRunner(env=refused).invoke(app, words).stdout)


def test_long_paths_come_out_in_one_piece(here: Path) -> None:
    out = "/".join(["a-very-long-name-of-a-directory"] * 4)
    words = ["absorb-decompose", "model", "-o", out, "--lossless"]
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, words)
    assert f"Written to {out}\n" in done.stdout
    assert re.search(r"commit [\d.]+ s\)", " ".join(done.stdout.split()))
    again = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["absorb-decompose", "model", "-o", out])
    assert f"where: {here / out}\n" in again.stderr


def test_a_reader_that_goes_away_is_no_error_worth_words(here: Path) -> None:
    run = subprocess.Popen(
        [*MAIN, "inspect", "model", "--structure"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert run.stdout is not None
    run.stdout.close()
    _, err = run.communicate()
    assert b"Traceback" not in err
    assert b"Exception ignored" not in err


def test_verify_fails_where_a_head_differs_by_more_than_allowed(here: Path) -> None:
    surgery("absorb-decompose", "model", "-o", "out", "--remove", "10%", "--by-weights")
    words = ["verify", "model", "out", "--weights-only", "--max-error"]
    assert surgery(*words, "0.9").exit_code == 0
    failed = surgery(*words, "1e-6")
    assert failed.exit_code == 1
    assert "at most 1e-06" in failed.stderr


def test_inspect_writes_a_page_where_asked_and_nothing_else(here: Path) -> None:
    was = contents(here / "model")
    assert surgery("inspect", "model", "--html", "page.html").exit_code == 0
    assert "<svg" in Path("page.html").read_text()
    assert contents(here / "model") == was
    refused = surgery("inspect", "model", "--html", "nowhere/page.html")
    assert refused.exit_code == 1
    assert "nowhere/page.html" in refused.stderr


def test_ctrl_c_exits_with_130_and_says_how_to_go_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=64, n_embd=256, n_layer=24, n_head=4)
    transformers.GPT2LMHeadModel(config).save_pretrained("large")
    words = ["absorb-decompose", "large", "-o", "out", "--remove", "25%", "--by-weights"]
    run = subprocess.Popen(
        [*MAIN, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    journal = here / ".out.surgery-partial" / "journal.jsonl"
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 2):
        assert run.poll() is None, run.communicate()
        time.sleep(0.002)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate()
    assert run.returncode == 130
    assert out == b""
    assert b"--resume" in err
    assert b"Traceback" not in err
    assert not Path("out").exists()
    # The pictures of 24 layers are the report's own tests' work.
    monkeypatch.setattr("surgery.report.html.to_html", lambda report: "<html></html>")
    again = surgery(*words, "--resume")
    assert again.exit_code == 0, again.output
    assert Path("out/report.html").exists()
