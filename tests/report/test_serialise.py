"""A report survives its JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from surgery.errors import CheckpointError
from surgery.report.model.report import Measurement
from surgery.report.serialise import SCHEMA, from_json, to_json
from tests.report.factory import hostile_report, make_report
from tests.report.feed_forward_factory import make_narrower


@pytest.mark.parametrize("size", ["tiny", "llama"])
def test_what_was_written_reads_back_the_same(size: str) -> None:
    text = to_json(make_report(size))
    again = from_json(text)
    assert to_json(again) == text
    assert from_json(to_json(again)) == again


@pytest.mark.parametrize("size", ["tiny", "llama"])
def test_narrower_blocks_read_back_the_same_one_a_line(size: str) -> None:
    report = make_narrower(size)
    text = to_json(report)
    again = from_json(text)
    assert to_json(again) == text
    assert from_json(to_json(again)) == again
    assert again.savings == report.savings
    kept = [(one.path, one.kept) for one in report.feed_forward]
    assert [(one.path, one.kept) for one in again.feed_forward] == kept
    lines = [line for line in text.splitlines() if line.startswith('{"path"')]
    assert len(lines) == len(report.feed_forward)


def test_rounding_keeps_seven_digits_and_counts_stay_exact() -> None:
    report = make_report("tiny")
    again = from_json(to_json(report))
    assert again.savings == report.savings
    assert [q.after for q in again.quantities] == [q.after for q in report.quantities]
    for site, back in zip(report.sites, again.sites, strict=True):
        assert back.qk.ranks == site.qk.ranks
        assert back.vo.cut_error == pytest.approx(site.vo.cut_error, rel=1e-6)
        assert back.vo.spectrum[0] == pytest.approx(site.vo.spectrum[0], rel=1e-4)


def test_hostile_strings_survive_unchanged() -> None:
    report = hostile_report()
    assert from_json(to_json(report)).title == report.title


def test_numbers_json_lacks_are_kept() -> None:
    odd = [
        Measurement("m", "M", "d", "", before, after)
        for before, after in ((None, math.inf), (-math.inf, math.nan))
    ]
    text = to_json(replace(make_report("tiny"), measurements=odd))
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    first, second = from_json(text).measurements
    assert (first.before, first.after, second.before) == (None, math.inf, -math.inf)
    assert math.isnan(second.after)


def test_fields_of_a_newer_version_are_ignored() -> None:
    document = json.loads(to_json(make_report("tiny")))
    document["colour"] = "blue"
    assert from_json(json.dumps(document)).title == document["title"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ("[]", "schema"),
        ('{"schema": 99}', "99"),
        (f'{{"schema": {SCHEMA}}}', "lacks a field"),
    ],
)
def test_what_is_no_report_is_refused(text: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        from_json(text, where="somewhere/report.json")


def test_a_field_of_the_wrong_kind_is_named() -> None:
    document = json.loads(to_json(make_report("tiny")))
    document["sites"][2]["qk"]["ranks"] = "all"
    with pytest.raises(CheckpointError, match=r"sites\[2\]\.qk\.ranks"):
        from_json(json.dumps(document))


def test_a_large_model_stays_small() -> None:
    assert len(to_json(make_report("large")).encode()) < 3_000_000
