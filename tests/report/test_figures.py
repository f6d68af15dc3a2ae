"""No label of a picture is cut off or over another, and what a caption promises is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import pytest

from surgery.report.figures import Picture, losses, moved_maps, pair_errors, price_curves, trade_off
from surgery.report.figures.canvas import PAIR_COLOURS, TRAINED
from surgery.report.model.calibration import Calibration
from surgery.report.model.report import PairReport, Report, SiteReport
from tests.report import (
    test_calibrated_pages,
    test_feed_forward_pages,
    test_linear_pages,
    test_pages,
    test_tuning_pages,
)
from tests.report.calibrated_factory import calibrated
from tests.report.factory import make_report
from tests.report.laid_out import collisions, cut_off, dots, size_of, texts
from tests.report.tuning_factory import make_tuning_report

DRAWN: dict[str, Callable[[], Iterable[Picture]]] = {
    "whisper-tiny": partial(test_pages.drawing, "tiny"),
    "llama 70B": partial(test_pages.drawing, "llama"),
    "nothing cut": partial(test_pages.drawing, "lossless"),
    "calibrated": partial(test_calibrated_pages.drawing, "whisper"),
    "split": partial(test_linear_pages.drawing, "sorsa", "tiny"),
    "reflections": partial(test_linear_pages.drawing, "hra", "tiny"),
    "narrower": partial(test_feed_forward_pages.drawing, "tiny"),
    "narrower, beside attention": partial(test_feed_forward_pages.drawing, "large"),
    "narrower, 80 layers": partial(test_feed_forward_pages.drawing, "llama"),
    "narrower, counted": partial(test_feed_forward_pages.drawing, "dry"),
    "narrower, hostile": partial(test_feed_forward_pages.drawing, "hostile"),
    "tuned cores": partial(test_tuning_pages.drawing, "core"),
    "tuned split": partial(test_tuning_pages.drawing, "sorsa"),
    "tuned LoRA": partial(test_tuning_pages.drawing, "lora"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_no_label_is_cut_off_or_over_another(name: str) -> None:
    for picture in DRAWN[name]():
        for svg in filter(None, (picture.svg, picture.small)):
            assert texts(svg), picture.name
            assert not cut_off(svg), picture.name
            assert not collisions(svg), picture.name


def pictures_of_energy(report: Report) -> list[Picture]:
    return [one for one in trade_off(report) if one.title.startswith("Removed by lost energy")]


def with_ranks(report: Report, rank: Callable[[PairReport], int]) -> Report:
    """Return the report of a cut that keeps ``rank`` components of every head."""

    def cut(pair: PairReport) -> PairReport:
        return replace(pair, ranks=[rank(pair)] * len(pair.ranks))

    sites = [replace(site, qk=cut(site.qk), vo=cut(site.vo)) for site in report.sites]
    return replace(report, sites=sites)


@pytest.mark.parametrize(
    "rank",
    [lambda pair: pair.full_rank - 1, lambda pair: 20, lambda pair: 1],
    ids=["almost all", "20", "1"],
)
def test_a_dot_is_on_its_axes_whatever_was_cut(rank: Callable[[PairReport], int]) -> None:
    report = with_ranks(calibrated("tiny"), rank)
    (picture,) = pictures_of_energy(report)
    assert "a dot is this report's own cut" in picture.caption
    width, height = size_of(picture.svg)
    for colour in PAIR_COLOURS.values():
        (dot,) = dots(picture.svg, colour)
        assert 50 <= dot[0] <= width - 46
        assert 26 <= dot[1] <= height - 48
    assert not cut_off(picture.svg)


def test_a_cut_of_equal_shares_has_its_dot_on_its_line() -> None:
    (site, *_) = make_report("tiny").sites
    spectrum = [0.5**step for step in range(site.head_dim)]

    def pair(rank: int) -> PairReport:
        return PairReport([rank] * 6, site.head_dim, [spectrum] * 6)

    report = replace(make_report("tiny"), sites=[replace(site, qk=pair(5), vo=pair(3))])
    (picture,) = pictures_of_energy(report)
    for name, rank in (("Q·K", 5), ("V·O", 3)):
        gone = 1 - rank / site.head_dim
        assert f"{name} {100 * gone:.3g} % at {0.25**rank:.2g}" in picture.alt


def test_no_dot_is_promised_where_nothing_was_cut() -> None:
    report = with_ranks(make_report("tiny"), lambda pair: pair.full_rank)
    for picture in trade_off(report):
        assert "dot" not in picture.caption
        assert not any(dots(picture.svg, colour) for colour in PAIR_COLOURS.values())


def test_an_error_of_nothing_is_a_whole_dot_on_the_axis() -> None:
    report = make_report("tiny")
    first, *rest = report.sites
    exact = replace(first.vo, cast_error=[0.0] * 6)
    (picture,) = pair_errors(replace(report, sites=[replace(first, vo=exact), *rest]))
    lowest = max(y for _, y in dots(picture.svg, PAIR_COLOURS["vo"]))
    assert f'y="{lowest:g}"' in picture.svg
    assert "clip-path" not in picture.svg.split(f'y="{lowest:g}"')[0].rsplit("<g", 1)[1]


def test_a_loss_that_was_logged_once_is_a_dot() -> None:
    report = make_tuning_report("core")
    assert report.tuning is not None
    once = replace(report, tuning=replace(report.tuning, steps=report.tuning.steps[:1]))
    (picture,) = losses(once)
    assert "Blue: training loss" in picture.caption
    assert dots(picture.svg, TRAINED)
    assert not collisions(picture.svg)


def test_a_panel_is_named_clear_of_a_tick_at_its_top() -> None:
    report = make_tuning_report("core")
    assert report.tuning is not None
    after = [1 - 1e-5] * 5 + [1 + 7.41e-4] * 5  # the highest tick, 0.08 %, is the upper limit
    moved = [replace(one, before=[1.0] * 10, after=after) for one in report.tuning.moved]
    pictures = moved_maps(replace(report, tuning=replace(report.tuning, moved=moved)))
    assert any(box.text == "+0.08 %" for one in pictures for box in texts(one.svg))
    assert not any(collisions(one.svg) for one in pictures)


def left_alone(site: SiteReport) -> SiteReport:
    return replace(site, qk=PairReport([64] * 6, 64, untouched="not asked for"))


def test_a_small_cut_is_named_within_the_picture() -> None:
    report = calibrated("tiny")
    told = report.calibration
    assert isinstance(told, Calibration)
    almost = with_ranks(report, lambda pair: pair.full_rank - 1)
    alone = replace(almost, sites=[left_alone(site) for site in almost.sites])
    (picture,) = price_curves(alone)
    assert not cut_off(picture.svg)
    assert not collisions(picture.svg)
