"""A bound in place of a budget: kept on rows for trials, used up, resumed, told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import surgery
from surgery.choices.rules import MaxError, MaxPplIncrease, MaxWerIncrease
from surgery.choices.targets import bound_in
from surgery.choices.where import Where
from surgery.engine.compress import cutting as module
from surgery.engine.measure.largest import TRIES
from surgery.errors import UsageError
from surgery.report.html import to_html
from surgery.report.model.report import Report
from tests.engine.support import contents, tensors_of
from tests.engine.test_compress import options, save
from tests.engine.test_whole_budget import SEAMS

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("WER+1", MaxWerIncrease(1.0)),
        (" wer + 0.5", MaxWerIncrease(0.5)),
        ("ppl*1.1", MaxPplIncrease(0.1)),
        ("PPL*1", MaxPplIncrease(0.0)),
        ("error+.1", MaxError(0.1)),
    ],
)
def test_bounds_are_read_alike_by_all_commands(text: str, bound: Any) -> None:
    assert bound_in(text) == bound
    assert Where(within=text).rule() == bound
    assert surgery.CompressOptions(within=text).bound == bound


@pytest.mark.parametrize(
    "text", ["", "WER", "1", "wer*1.1", "ppl+1", "ppl*0.9", "wer+101", "error+-1", "ppl*1.1.1"]
)
def test_what_is_no_bound_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--within cannot be read"):
        surgery.CompressOptions(within=text)
    with pytest.raises(UsageError, match="--within cannot be read"):
        Where(within=text).rule()


def within(place: Path, bound: str, name: str = "llama", out: str = "out", **more: Any) -> Report:
    source = place / "source"
    resume = bool(more.pop("resume", False))
    chosen = options(place, name, **{"remove": None, "of": "model", "within": bound, **more})
    source = source if source.exists() else save(name, source)
    return surgery.compress(source, place / out, options=chosen, resume=resume)


def checked(report: Report, limit: float) -> None:
    """What was kept is the largest try within the limit, and is what was written."""
    assert report.calibration is not None and report.calibration.held_out is not None
    steps = report.calibration.search
    assert 0 < len(steps) <= TRIES
    assert all(step.accepted == (step.value <= limit) for step in steps)
    kept = max(step.removed for step in steps if step.accepted)
    assert report.savings[-1].removed == pytest.approx(kept, abs=1e-9)


def test_the_largest_stock_model_within_a_perplexity_is_written(tmp_path: Path) -> None:
    report = within(tmp_path, "ppl*1.005")
    checked(report, 0.5)
    assert report.calibration is not None
    assert report.calibration.bound == "max_ppl_increase"
    assert any(not step.accepted for step in report.calibration.search)
    told = to_html(report)
    assert "the largest cut with a perplexity that rises by at most 0.5 %" in told


@pytest.mark.slow
def test_blocks_and_attention_share_what_keeps_within_an_error_and_runs_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"layout": "ragged", "seams": SEAMS, "multiple": 8}
    report = within(tmp_path, "error+0.004", **more)
    checked(report, 0.004)
    assert report.sites and report.calibration is not None
    expected, seen = contents(tmp_path / "out"), list[str]()
    real = module.fit_blocks

    def fit_blocks(*given: Any) -> Any:
        seen.append(given[-1])
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(module, "fit_blocks", fit_blocks)
    with pytest.raises(KeyboardInterrupt):
        within(tmp_path, "error+0.004", out="again", **more)
    within(tmp_path, "error+0.004", out="again", resume=True, **more)
    found = contents(tmp_path / "again")
    assert found["model.safetensors"] == expected["model.safetensors"]
    assert seen.count(seen[0]) <= 2  # once tried, once more if it is what was kept


def test_no_more_goes_than_is_allowed_where_the_bound_would_take_more(tmp_path: Path) -> None:
    report = within(tmp_path, "error+100", remove=0.1)
    assert report.calibration is not None and len(report.calibration.search) == 1
    left, whole = (
        sum(one.numel() for one in tensors_of(tmp_path / place).values())
        for place in ("out", "source")
    )
    assert 0.05 < 1 - left / whole < 0.15


@pytest.mark.parametrize(
    ("bound", "more", "message"),
    [
        ("error+0", {}, "Nothing that can go keeps within"),
        ("WER+1", {}, "hears and writes"),
        ("ppl*1.1", {"target_parameters": "9k"}, "a bound is kept"),
        ("ppl*1.1", {"of": "ffn"}, "there is no --remove"),
    ],
)
def test_what_cannot_be_had_is_refused(
    bound: str, more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        within(tmp_path, bound, **more)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_finds_no_bound(tmp_path: Path) -> None:
    source = save("llama", tmp_path / "source")
    chosen = surgery.CompressOptions(within="ppl*1.1")
    with pytest.raises(UsageError, match="found by running"):
        surgery.compress(source, tmp_path / "out", options=chosen, dry_run=True)
