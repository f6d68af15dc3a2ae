"""Figures are written so that two of them can be compared."""

from __future__ import annotations

import pytest

from surgery.report.wording import amount, count, percent


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (512, "512"),
        (3.25, "3.25"),
        (6099.7, "6,100"),
        (999.7, "1,000"),
        (71_040_000, "71.0 M"),
        (6_300_000, "6.30 M"),
        (145_000_000, "145 M"),
        (999_960, "1.00 M"),
        (2.345e18, "2,345 P"),
    ],
)
def test_counts_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert count(value) == text


def test_units_stand_behind_their_prefix() -> None:
    assert amount(71_040_000, "bytes") == "71.0 MB"
    assert amount(512, "bytes") == "512 B"
    assert amount(46.5e9, "FLOPs") == "46.5 GFLOPs"


def test_a_share_is_rounded_neither_to_nothing_nor_to_all() -> None:
    told = [percent(share) for share in (0, 0.0004, 0.464, 0.99951, 0.99996, 1, -0.25)]
    assert told == ["0 %", "0.04 %", "46.4 %", "99.95 %", "99.996 %", "100 %", "−25.0 %"]
