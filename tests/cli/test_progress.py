"""How far a run is and how long it still takes is told with a terminal and without one."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from surgery.events import Event
from surgery_cli import progress as progress_module
from surgery_cli.main import app
from surgery_cli.pace import Pace, amount_done, span
from surgery_cli.progress import ProgressView
from tests.engine.spoken import save_clips, save_listener


def test_the_time_left_is_by_the_events_own_pace() -> None:
    pace = Pace(40, 100.0)  # a resumed stage: what was there already took no time
    assert pace.left(100, 103.0) is None
    pace.note(42, 104.0)
    assert pace.left(100, 104.0) == pytest.approx(2 * 58)
    assert pace.left(100, 114.0) == pytest.approx(2 * 58 - 10)  # time goes on between two events
    assert pace.left(100, 500.0) == 0.0
    pace.note(42, 120.0)  # the same again is no progress
    assert pace.left(100, 120.0) == pytest.approx(2 * 58 - 16)
    pace.note(100, 130.0)
    assert pace.left(100, 131.0) is None


def test_spans_and_amounts_are_told_in_one_unit() -> None:
    assert [span(each) for each in (4.4, 89, 91, 5000, 5401)] == [
        "4 s",
        "89 s",
        "2 min",
        "83 min",
        "1.5 h",
    ]
    assert [amount_done(*each) for each in ((3, 0), (3, 96), (0.37, 1), (1, 4))] == [
        "3",
        "3 of 96",
        "37 %",
        "25 %",
    ]


class Clock:
    """A clock that stands until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_a_long_stage_is_told_every_twenty_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    with ProgressView(Console(file=stream, width=200), clock=clock) as progress:
        progress(Event("Reading", 0, 40))
        for second in range(1, 51):
            clock.now += 1
            if second % 5 == 0:
                progress(Event("Reading", second // 5, 40, f"layer [{second // 5}]"))
            progress.tell()
        clock.now += 100  # nothing happens, and it is told all the same
        progress.tell()
    assert stream.getvalue().splitlines() == [
        "Reading: 4 of 40, 20 s, about 3 min left (layer [4])",
        "Reading: 8 of 40, 40 s, about 3 min left (layer [8])",
        "Reading: 10 of 40, 2 min, about 50 s left (layer [10])",
        "Reading: done (150.0 s)",
    ]


def test_a_short_stage_is_told_once() -> None:
    stream = io.StringIO()
    with ProgressView(Console(file=stream, width=200)) as progress:
        progress(Event("Reading", 0, 40))
        progress(Event("Reading", 40, 40))
    assert stream.getvalue().count("\n") == 1


def test_a_terminal_shows_what_is_left() -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, width=100, force_terminal=True)
    with ProgressView(console, clock=clock) as progress:
        progress(Event("Reading", 0, 1000))
        clock.now += 60
        progress(Event("Reading", 10, 1000, "layer"))
    assert "99 min left" in stream.getvalue() or "1.6 h left" in stream.getvalue()


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_lines_are_on_standard_error_and_never_beside_json(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_pictures: None,
    form: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    told = progress_module.ProgressView.__call__

    def told_at_once(view: ProgressView, event: Event) -> None:
        told(view, event)
        view.tell()

    monkeypatch.setattr(progress_module, "EVERY", 0.0)
    monkeypatch.setattr(progress_module.ProgressView, "__call__", told_at_once)
    save_listener(tmp_path / "whisper")
    save_clips(tmp_path / "clips", range(6))
    words = ["absorb-decompose", "whisper", "--calibrate", "clips", "--remove", "20%", "-o", "out"]
    run = CliRunner().invoke(app, [*words, *form], env={"COLUMNS": "80"})
    assert run.exit_code == 0, run.output
    lines = re.findall(r"^[A-Z][a-z -]+: \d+.*, \d+ s.*$", run.stderr, flags=re.MULTILINE)
    assert bool(lines) == (not form)
    assert not any(line in run.stdout for line in lines)
