"""What the terminal shows fits 80 columns and obeys no markup."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from surgery.errors import CheckpointError
from surgery.events import Event
from surgery_cli.progress import ProgressView
from surgery_cli.render import error_view, report_view
from tests.report.factory import hostile_report, make_report


def _shown(renderable: object, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(renderable)
    return stream.getvalue()


@pytest.mark.parametrize("size", ["tiny", "large", "llama"])
@pytest.mark.parametrize("inspect", [False, True])
def test_a_report_fits_80_columns(size: str, inspect: bool) -> None:
    text = _shown(report_view(make_report(size, inspect=inspect)))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text, "figures are never cut off"
    assert ("nothing written" in text) == inspect


def test_the_strip_of_layers_stays_on_one_line() -> None:
    text = _shown(report_view(make_report("large")))
    strips = [line for line in text.splitlines() if "▆" in line]
    assert len(strips) == 6


def test_markup_and_control_characters_are_text() -> None:
    from dataclasses import replace

    text = _shown(report_view(replace(hostile_report(), preset="[bold]x[/nonsense]")))
    assert "[bold]x[/nonsense]" in text
    assert "\x1b" not in text


def test_an_error_shows_its_details_as_text() -> None:
    error = CheckpointError("Tensor [red] is missing", where="a\x1b[2J.safetensors", hint="look")
    text = _shown(error_view(error))
    assert text.startswith("error: Tensor [red] is missing")
    assert "what to do: look" in text
    assert "\x1b" not in text


def test_without_a_terminal_progress_is_a_line_a_stage() -> None:
    stream = io.StringIO()
    with ProgressView(Console(file=stream, width=80)) as progress:
        for done in range(3):
            progress(Event("Reading spectra", done, 2, "model.layers.0"))
        progress(Event("Writing", 1, 1))
    lines = stream.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["Reading spectra", "Writing"]
    assert "\x1b" not in stream.getvalue()


def test_a_stage_that_fails_says_so() -> None:
    stream = io.StringIO()

    def run() -> None:
        with ProgressView(Console(file=stream)) as progress:
            progress(Event("Writing", 1, 0))
            raise ValueError

    with pytest.raises(ValueError):
        run()
    assert stream.getvalue().startswith("Writing: stopped")


def test_on_a_terminal_progress_shows_stage_and_count() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True)
    with ProgressView(console) as progress:
        progress(Event("Reading", 1, 4, "a.very.long.path.to.some.layer.self_attn"))
    assert "Reading" in stream.getvalue()
    assert "1/4" in stream.getvalue()


def test_quiet_is_quiet() -> None:
    stream = io.StringIO()
    with ProgressView(Console(file=stream), quiet=True) as progress:
        progress(Event("Reading", 1, 4))
    assert stream.getvalue() == ""
