"""What reports of split and re-parameterised models say: sentences, tables, JSON, the screen."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from surgery.report.model.report import Report
from surgery.report.serialise import from_json, to_json
from surgery.report.text.linear_views import role_groups
from surgery.report.text.linears import linear_sentence, share_text, start_tone
from surgery.report.text.roles import place_text, worst
from surgery_cli.render import report_view
from tests.report.factory import make_report
from tests.report.linear_factory import METHODS, bare, make_linear_report
from tests.report.test_render import _shown

LARGE = make_linear_report("sorsa", "7b")


def starting_at(error: float | None) -> Report:
    plain = make_linear_report("sorsa")
    return replace(plain, linears=[replace(one, start_error=error) for one in plain.linears])


def test_the_first_line_says_what_is_trainable_and_where_it_starts() -> None:
    plain = starting_at(2e-8)
    assert linear_sentence(plain) == (
        "Split 64 linear maps at rank 16: 1.08 M of 38.8 M parameters (2.8 %) are trainable; "
        "the function is unchanged at the start (worst weight difference 2.0e-08)."
    )
    assert linear_sentence(plain) in " ".join(_shown(report_view(plain)).split())
    hra = make_linear_report("hra", "7b")
    assert linear_sentence(hra).startswith("Put 8 reflections in front of 224 linear maps: 9.11 M")


@pytest.mark.parametrize(
    ("error", "says", "tone"),
    [
        (0.0, "no weight differs", "good"),
        (3e-4, "but for rounding", ""),
        (0.2, "do not start as they were", "bad"),
        (math.nan, "do not start as they were (worst weight difference nan)", "bad"),
        (None, "by construction", ""),
    ],
)
def test_a_start_that_differs_is_not_called_unchanged(
    error: float | None, says: str, tone: str
) -> None:
    report = starting_at(error)
    assert says in linear_sentence(report)
    assert start_tone(report) == tone


@pytest.mark.parametrize("method", METHODS)
def test_a_dry_run_says_would(method: str) -> None:
    report = make_linear_report(method, dry=True)
    sentence = linear_sentence(report)
    assert "64 linear maps would be" in sentence or "would be put " in sentence
    text = " ".join(_shown(report_view(report)).split())
    assert "nothing written" in text
    assert "would be trainable; the function would start unchanged" in text
    assert "would grow" in text
    assert "To go on" not in text


def test_the_worst_map_is_named() -> None:
    plain = make_linear_report("pissa", "7b")
    bad = replace(plain.linears[38], defect=0.5, shortfall=0.123)
    report = replace(plain, linears=[*plain.linears[:38], bad, *plain.linears[39:]])
    assert worst(report.linears, "defect") == (0.5, bad)
    text = " ".join(_shown(report_view(report)).split())
    assert f"≤ 12.3 % below the best part of this rank, at worst ({place_text(bad)})" in text
    assert f"0.500 at worst ({place_text(bad)})" in text
    odd = replace(bad, defect=math.nan)
    for maps in ([odd, bad], [bad, odd]):
        found = worst(maps, "defect")
        assert found is not None
        assert math.isnan(found[0])


def test_a_share_is_never_rounded_up_to_all() -> None:
    assert share_text(0.99999) == "> 99.9 %"
    assert share_text(1.0) == "100 %"
    assert share_text(0.8123) == "81.2 %"
    assert share_text(None) == "—"


def test_roles_come_in_the_order_of_the_computation() -> None:
    shuffled = replace(LARGE, linears=sorted(LARGE.linears, key=lambda one: one.path))
    roles = ["q", "k", "v", "o", "gate", "up", "down"]
    assert [group.role for group in role_groups(shuffled)] == roles
    layers = [one.layer for one in role_groups(shuffled)[0].linears]
    assert layers == list(range(32))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", ["tiny", "7b"])
@pytest.mark.parametrize("dry", [False, True])
def test_the_screen_fits_80_columns(method: str, size: str, dry: bool) -> None:
    text = _shown(report_view(make_linear_report(method, size, dry=dry)))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text, "figures are never cut off"


@pytest.mark.parametrize("method", METHODS)
def test_json_keeps_every_figure_one_line_a_map(method: str) -> None:
    report = make_linear_report(method)
    text = to_json(report)
    again = from_json(text)
    assert to_json(again) == text
    assert again.trainable == report.trainable
    assert [one.path for one in again.linears] == [one.path for one in report.linears]
    assert again.linears[0].spectrum == pytest.approx(report.linears[0].spectrum, rel=1e-4)
    lines = [line for line in text.splitlines() if line.startswith('{"path"')]
    assert len(lines) == len(report.linears)
    assert all(isinstance(json.loads(line.rstrip(",")), dict) for line in lines)
    assert from_json(to_json(bare(report))).linears[0].layer is None


def test_reports_from_before_linear_maps_still_load() -> None:
    document = json.loads(to_json(make_report("tiny")))
    del document["linears"], document["trainable"]
    report = from_json(json.dumps(document))
    assert report.linears == []
    assert report.trainable is None
