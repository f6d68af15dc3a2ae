"""Page, card and screen of a calibrated run: what was predicted, what came true, on which data."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import cache

import pytest

from surgery.report.card import to_card
from surgery.report.figures import price_curves, sensitivity_dots, trade_off
from surgery.report.model.calibration import Calibration, Price, SearchStep
from surgery.report.model.report import Report
from surgery.report.serialise import from_json, to_json
from surgery.report.text.calibration import bound_text, price_rows, step_text
from surgery.report.wording import scientific
from surgery_cli.render import report_view
from tests.report.calibrated_factory import calibrated, hostile_calibration
from tests.report.drawn import Drawn, drawn
from tests.report.factory import HOSTILE, make_report
from tests.report.test_pages import Page
from tests.report.test_render import _shown

REPORTS = {
    "whisper": calibrated("tiny", leaked=3),
    "llama": calibrated("llama"),
    "inspect": calibrated("tiny", inspect=True),
    "hostile": hostile_calibration(),
}
PAGES = ("whisper", "hostile")


@cache
def drawing(name: str) -> Drawn:
    return drawn(REPORTS[name])


def words_of(name: str) -> str:
    return " ".join(" ".join(Page(drawing(name).html).words).split())


def told(name: str) -> Calibration:
    calibration = REPORTS[name].calibration
    assert calibration is not None
    return calibration


def with_prices(prices: list[Price]) -> Report:
    report = REPORTS["inspect"]
    return replace(report, calibration=replace(told("inspect"), prices=prices))


@pytest.mark.parametrize("name", ["whisper", "llama", "inspect", "hostile"])
def test_what_real_input_told_reads_back_the_same(name: str) -> None:
    once = from_json(to_json(REPORTS[name]))
    assert from_json(to_json(once)) == once
    assert once.calibration is not None
    assert len(once.calibration.prices) == len(told(name).prices)
    assert [step.accepted for step in once.calibration.search] == [
        step.accepted for step in told(name).search
    ]
    assert once.calibration.sensitivities[0].damage == pytest.approx(
        told(name).sensitivities[0].damage, rel=1e-6
    )


def test_a_report_from_before_calibration_still_reads() -> None:
    text = to_json(make_report("tiny")).replace(',\n"calibration": null', "")
    assert "calibration" not in text
    assert from_json(text).calibration is None


def test_page_card_and_screen_agree() -> None:
    page, card = words_of("whisper"), to_card(REPORTS["whisper"])
    screen = " ".join(_shown(report_view(REPORTS["whisper"])).split())
    assert "What real input told" in page
    outcome = f"{told('whisper').predicted:.3g} predicted, {told('whisper').measured:.3g} measured"
    for view in (page, card, screen):
        assert outcome in view
        assert "speech/calib" in view
        assert "3 samples are in both the calibration and the evaluation data" in view
    for cell in (cell for row in price_rows(told("whisper").prices) for cell in row.cells):
        assert cell is not None
        assert f"{cell[0]} ({cell[1]})" in page
        assert f"{cell[0]} ({cell[1]})" in screen
    assert told("whisper").statistics in page.split()
    assert "+3.52 points" in page
    assert "+3.52 points" in screen


@pytest.mark.parametrize("name", ["whisper", "llama", "inspect", "hostile"])
def test_the_screen_fits_80_columns(name: str) -> None:
    text = _shown(report_view(REPORTS[name]))
    assert "\x1b" not in text
    if name != "hostile":
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text, "figures are never cut off"
        assert "Price of removing" in text


def test_an_inspection_prices_budgets_instead_of_thresholds() -> None:
    assert "Threshold to remove" not in _shown(report_view(REPORTS["inspect"]))
    assert "Threshold to remove" in _shown(report_view(make_report("tiny", inspect=True)))
    titles = [picture.title for picture in trade_off(REPORTS["inspect"])]
    assert titles == ["Removed by lost energy, encoder"]


def test_nothing_is_told_where_nothing_was_asked() -> None:
    report = make_report("tiny")
    assert price_curves(report) == sensitivity_dots(report) == []
    assert "Calibrated" not in _shown(report_view(report))
    assert "computes on" not in to_card(report)


@pytest.mark.parametrize("name", PAGES)
def test_pages_make_no_request_and_their_ids_are_unique(name: str) -> None:
    page = Page(drawing(name).html)
    assert not {"script", "link", "iframe", "object", "img", "form"} & set(page.tags)
    assert not page.handlers
    assert len(page.ids) == len(set(page.ids))


def test_hostile_strings_stay_text() -> None:
    html, card = drawing("hostile").html, to_card(REPORTS["hostile"])
    assert "<script" not in html
    assert "\x1b" not in html + card
    assert "<script" not in card.split("---\n", 2)[2].split("Made by")[0].replace("\\<", "")
    assert any(HOSTILE.split("\n")[0] in word for word in Page(html).words)


@pytest.mark.parametrize("name", PAGES)
def test_pictures_are_well_formed_and_described(name: str) -> None:
    made = drawing(name).by_maker
    for picture in made["price_curves"] + made["sensitivity_dots"]:
        root = ET.fromstring(picture.svg)
        assert root.findtext("{http://www.w3.org/2000/svg}title") == picture.title
        assert root.findtext("{http://www.w3.org/2000/svg}desc") == picture.alt


def test_the_price_picture_names_layouts_unit_and_this_cut() -> None:
    for name, unit in (("whisper", "Relative error"), ("llama", "nat/token")):
        (picture,) = price_curves(REPORTS[name])
        labels = [text.text for text in ET.fromstring(picture.svg).iter() if text.text]
        assert {"ragged", "block", "tied"} <= {label.strip() for label in labels}
        assert any("this cut: " in label for label in labels)
        assert unit in picture.caption
        points = [one for one in told(name).prices if one.measured is not None]
        for one in points:
            assert f"(measured {scientific(one.measured or 0)})" in picture.alt


def test_the_price_of_a_smaller_model_is_drawn_and_told_by_parts() -> None:
    picture, layouts = price_curves(REPORTS["inspect"])
    assert picture.name == "parts" and layouts.name == "price"
    labels = {text.text.strip() for text in ET.fromstring(picture.svg).iter() if text.text}
    assert {"attention", "layers", "feed-forward", "all together"} <= labels
    assert "layers: 10 % at 0.930" in picture.alt
    screen = _shown(report_view(REPORTS["inspect"])).splitlines()
    row = next(line for line in screen if line.startswith("10.0 %"))
    assert row.split() == ["10.0", "%", "0.290", "0.930", "0.126", "0.100"]
    assert any(line.startswith("30.0 %") and line.count("—") == 2 for line in screen)


def test_each_scope_has_its_sensitivities_on_one_scale() -> None:
    pictures = sensitivity_dots(calibrated("large"))
    assert [one.title for one in pictures] == [
        f"Sensitivity, {scope}" for scope in ("encoder", "decoder", "cross")
    ]
    ticks = [
        [text.text for text in ET.fromstring(one.svg).iter() if "10⁻" in (text.text or "")]
        for one in pictures
    ]
    assert ticks[0] == ticks[1] == ticks[2]


@pytest.mark.parametrize(
    "prices",
    [
        [],
        [Price("ragged", 0.3, 0.1)],
        [Price("ragged", 0.0, 0.0), Price("ragged", 0.5, math.inf)],
        [Price("ragged", 0.02, 1e-9, 0.0), Price("tied", 0.9, 3.0, math.nan)],
    ],
    ids=["none", "one", "no error is finite and above zero", "far apart"],
)
def test_odd_curves_are_drawn_or_left_out(prices: list[Price]) -> None:
    report = with_prices(prices)
    for picture in price_curves(report):
        ET.fromstring(picture.svg)
    assert price_rows(told("inspect").prices)
    _shown(report_view(report))


def test_a_row_shows_the_nearest_point_and_only_near_ones() -> None:
    prices = [
        Price("ragged", 0.24, 0.5),
        Price("ragged", 0.2502, 0.6),
        Price("ragged", 0.2498, 0.7, 0.8),
        Price("tied", 0.3, 0.9),
    ]
    calibration = replace(told("inspect"), prices=prices)
    (row,) = price_rows(calibration.prices)
    assert (row.removed, row.cells) == ("25.0 %", [("0.700", "0.800"), None])


def test_sensitivities_without_damage_leave_no_mark() -> None:
    calibration = told("inspect")
    silent = [replace(one, damage=[0.0, -1e-9, math.nan]) for one in calibration.sensitivities]
    report = REPORTS["inspect"]
    assert (
        sensitivity_dots(replace(report, calibration=replace(calibration, sensitivities=silent)))
        == []
    )
    mixed = replace(calibration, sensitivities=[*silent[:-1], calibration.sensitivities[-1]])
    (picture,) = sensitivity_dots(replace(report, calibration=mixed))
    assert "Q·K" not in picture.alt


@pytest.mark.parametrize(
    ("bound", "limit", "says", "step"),
    [
        ("max_error", 0.1, "an error of at most 0.100", "0.0520"),
        ("max_wer_increase", 1, "rises by at most 1 point", "+0.052 points"),
        ("max_ppl_increase", 0.025, "rises by at most 2.5 %", "+0.052 %"),
    ],
)
def test_a_bound_is_told_in_its_unit(bound: str, limit: float, says: str, step: str) -> None:
    calibration = replace(told("whisper"), bound=bound)
    report = replace(REPORTS["whisper"], options={bound: limit})
    assert says in bound_text(report, calibration)
    assert step_text(SearchStep(0.2, 0.052, True), report, calibration) == step
    over = limit * (100 if bound == "max_ppl_increase" else 1) * 1.0001
    above = step_text(SearchStep(0.2, over, False), report, calibration)
    assert above.split()[0].lstrip("+") not in says.split()
