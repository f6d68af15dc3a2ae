"""Page, card and screen of a tuning run: how it went, what was trained, how far it moved."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import cache

import pytest

from surgery.report.card import to_card
from surgery.report.html import to_html
from surgery.report.model.report import Measurement, Report
from surgery.report.model.tuning import HeldOut, Moved, Tuning, TuningStep
from surgery.report.pages.tuning import tuning_view
from surgery.report.serialise import from_json, to_json
from surgery.report.text.summary import sentence
from surgery.report.text.tuning import curve_rows, fact_rows, values_text, warning_text
from surgery.report.text.tuning_tables import moved_columns, moved_rows
from surgery.report.text.tuning_views import curves_of, running_mean, spread_of, value_changes
from surgery.report.wording import count, percent
from surgery_cli.render import report_view
from tests.report.drawn import Drawn, drawn
from tests.report.factory import HOSTILE, make_report
from tests.report.test_pages import Page
from tests.report.test_render import _shown
from tests.report.tuning_factory import RUNS, hostile_tuning_report, make_tuning_report

REPORTS = {
    "core": make_tuning_report("core"),
    "sorsa": make_tuning_report("sorsa", resumed=True),
    "hra": make_tuning_report("hra"),
    "lora": make_tuning_report("lora"),
    "hostile": hostile_tuning_report(),
}


@cache
def drawing(name: str) -> Drawn:
    return drawn(REPORTS[name])


def told(name: str) -> Tuning:
    tuning = REPORTS[name].tuning
    assert tuning is not None
    return tuning


def words_of(html: str) -> str:
    return " ".join(" ".join(Page(html).words).split())


def retold(**changes: object) -> Report:
    return replace(REPORTS["core"], tuning=replace(told("core"), **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RUNS)
def test_page_card_and_screen_tell_the_same(name: str) -> None:
    report, tuning = REPORTS[name], told(name)
    page, card = words_of(drawing(name).html), to_card(report).replace("\\", "")
    screen = " ".join(_shown(report_view(report)).split())
    assert sentence(report) in page
    assert report.trainable is not None
    numbers = [count(report.trainable.trainable), percent(report.trainable.share)]
    for _, row in curve_rows(tuning):
        numbers += [row["first"], row["last"], row["lowest"]]
    for scope, rows in moved_rows(tuning.moved):
        assert scope in page
        numbers += [row[column.key] for row in rows for column in moved_columns(tuning.moved)]
    facts = [value for _, value in fact_rows(tuning)]
    for view in (page, card, screen):
        assert [one for one in [*numbers, *facts] if one not in view] == []
        assert "surgery merge" in view
        assert "What it cost" not in view
    for one in report.measurements:
        assert one.data in page
        assert one.data in card


@pytest.mark.parametrize("name", RUNS)
def test_only_what_a_method_has_is_drawn(name: str) -> None:
    run, made = RUNS[name], drawing(name).by_maker
    (picture,) = made["losses"]
    assert ("word error rate" in picture.alt.lower() or "wer" in picture.alt) == run.speech
    labels = " ".join(text.text or "" for text in ET.fromstring(picture.svg).iter())
    assert ("Penalty" in labels) == (run.penalty is not None)
    assert ("orthonormality" in labels) == run.defect
    assert "Learning rate" in labels
    assert ("resumed" in labels) == (told(name).resumed_from is not None)
    scopes = {one.scope for one in told(name).moved}
    assert len(made["moved_maps"]) == len(scopes) * (2 if run.heads else 1)
    assert bool(made["moved_spectra"]) == bool(run.heads)
    keys = {column.key for column in moved_columns(told(name).moved)}
    assert ("values" in keys, "defect" in keys) == (bool(run.heads), run.defect)


@pytest.mark.parametrize("name", REPORTS)
def test_pages_make_no_request_and_their_pictures_are_described(name: str) -> None:
    page = Page(drawing(name).html)
    assert not {"script", "link", "iframe", "object", "img", "form"} & set(page.tags)
    assert not page.handlers
    assert len(page.ids) == len(set(page.ids))
    for picture in drawing(name):
        root = ET.fromstring(picture.svg)
        assert root.findtext("{http://www.w3.org/2000/svg}title") == picture.title
        assert root.findtext("{http://www.w3.org/2000/svg}desc") == picture.alt


def test_hostile_strings_stay_text() -> None:
    html, card = drawing("hostile").html, to_card(REPORTS["hostile"])
    assert "<script" not in html
    assert "\x1b" not in html + card + _shown(report_view(REPORTS["hostile"]))
    assert any("<script>alert(1)</script>" in word for word in Page(html).words)
    body = card.split("---\n", 2)[2]
    text = "\n".join(line for line in body.splitlines() if not line.startswith("    "))
    assert "<script" not in text.replace("\\<", "")
    assert HOSTILE not in text


@pytest.mark.parametrize("name", RUNS)
def test_the_screen_fits_80_columns(name: str) -> None:
    text = _shown(report_view(REPORTS[name]))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text, "figures are never cut off"


@pytest.mark.parametrize("name", REPORTS)
def test_a_tuning_run_reads_back_the_same(name: str) -> None:
    text = to_json(REPORTS[name])
    once = from_json(text)
    assert to_json(once) == text
    assert once.tuning is not None
    assert once.tuning.held_out[3].loss == pytest.approx(told(name).held_out[3].loss, rel=1e-6)
    first, again = told(name).moved[0], once.tuning.moved[0]
    assert again.path == first.path
    assert again.after == pytest.approx(first.after, rel=1e-5)
    lines = [line for line in text.splitlines() if line.startswith('{"step"')]
    assert len(lines) == len(told(name).steps) + len(told(name).held_out)


def test_a_report_from_before_tuning_still_reads() -> None:
    document = json.loads(to_json(make_report("tiny")))
    del document["tuning"]
    assert from_json(json.dumps(document)).tuning is None


def test_the_first_line_says_what_was_trained_and_what_came_of_it() -> None:
    held_out = [HeldOut(0, 2.0, 12.5), HeldOut(100, 1.25, None), HeldOut(200, 1.5, 6.25)]
    assert sentence(retold(held_out=held_out)) == (
        "Trained 590 k of 38.4 M parameters (1.5 %, Absorb-Decompose, cores) of 24 linear maps for "
        "1,000 steps on digits/train: held-out loss 2.00 → 1.50, word error rate 12.50 → 6.25 %."
    )
    alone = sentence(retold(held_out=[], steps=[TuningStep(1, 0.5, None, None, 1e-3)]))
    assert alone.endswith("for 1 step on digits/train: training loss 0.500.")


def test_without_held_out_samples_passes_over_the_same_ones_are_compared() -> None:
    # Four passes of ten steps, logged every five: what single logs are of differs.
    losses = (3.0, 1.0, 2.6, 0.8, 2.4, 0.6, 2.2, 0.4)
    steps = [TuningStep(5 * n, loss, None, None, 1e-3) for n, loss in enumerate(losses, start=1)]
    report = retold(held_out=[], steps=steps, samples=100, examples_seen=400)
    assert sentence(report).endswith("training loss 2.00 in the first pass → 1.30 in the last.")
    tiles = tuning_view(replace(report, measurements=[]), report.tuning).tiles  # type: ignore[arg-type]
    assert [tile.value for tile in tiles if tile.label == "Training loss"] == ["2.00 → 1.30"]
    # One pass meets no sample twice: there is nothing to compare with.
    once = retold(held_out=[], steps=steps, samples=100, examples_seen=100)
    assert "→" not in sentence(once) and "training loss 0.4" in sentence(once)


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ((2.0, 1.25, 2.4), "The held-out loss rose, from 2.00 at the start to 2.40"),
        ((2.0, 1.25, 1.5), "The held-out loss rose again, from 1.25 at step 100 to 1.50"),
        ((2.0, 1.25, 1.255), ""),
        ((2.0, 2.005), ""),
        ((2.0, math.nan), "The held-out loss is no number any more"),
        ((), ""),
    ],
)
def test_a_held_out_loss_that_rises_is_warned_of(losses: tuple[float, ...], says: str) -> None:
    report = retold(held_out=[HeldOut(100 * n, loss) for n, loss in enumerate(losses)])
    assert report.tuning is not None
    assert warning_text(report.tuning).startswith(says) and bool(says) == bool(
        warning_text(report.tuning)
    )
    screen = " ".join(_shown(report_view(report)).split())
    for view in (words_of(to_html(report)), to_card(report), screen):
        assert says in view
        assert ("learning-rate, or take fewer" in view) == ("rose, from" in says)


def test_a_loss_that_rose_again_shows_where_it_was_lowest() -> None:
    held_out = [HeldOut(n, loss) for n, loss in ((0, 2.0), (100, 1.25), (200, 1.5))]
    text = words_of(to_html(retold(held_out=held_out)))
    assert "nats a token; lowest 1.25 at step 100" in text


def test_the_held_out_loss_has_one_tile() -> None:
    row = Measurement("held_out_loss", "Loss", "digits/train, held out", "nat", 1.97, 0.235)
    tiles = tuning_view(replace(REPORTS["lora"], measurements=[row]), told("lora")).tiles
    assert [tile.label for tile in tiles if "oss" in tile.label] == ["Loss"]


def test_steps_without_a_finite_loss_are_said_and_not_drawn() -> None:
    steps = told("core").steps
    broken = [replace(steps[0], loss=math.nan), replace(steps[1], loss=math.inf), *steps[2:]]
    report = retold(steps=broken)
    assert report.tuning is not None
    assert curves_of(report.tuning)["training"].steps[0] == steps[2].step
    says = "2 logged steps have no finite loss"
    assert says in warning_text(report.tuning)
    page, screen = words_of(to_html(report)), " ".join(_shown(report_view(report)).split())
    for view in (page, to_card(report), screen):
        assert says in view


_NOTHING = Moved("a", "k", "decoder", None, [], [], math.nan)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": [], "held_out": [], "moved": []},
        {"steps": [], "held_out": [HeldOut(0, math.nan, math.nan)], "moved": [_NOTHING]},
        {"steps": [TuningStep(0, 0.0, 0.0, 0.0, 0.0)], "held_out": [HeldOut(0, 0.0, 0.0)]},
        {"moved": [replace(_NOTHING, before=[0.0, 0.0], after=[0.0, 1.0], change=0.0)]},
        {"moved": [replace(_NOTHING, before=[1.0], after=[1.0], layer=3, change=math.inf)]},
        {"moved": [replace(_NOTHING, before=[2.0], after=[math.nan], change=0.1), _NOTHING]},
    ],
    ids=["nothing", "NaN", "zeros", "zero values", "one value", "broken values"],
)
def test_odd_runs_are_drawn_or_left_out(changes: dict[str, list[object]]) -> None:
    report = replace(retold(**changes), trainable=None, measurements=[])
    for picture in drawn(report):
        ET.fromstring(picture.svg)
    to_card(report)
    _shown(report_view(report))


def test_a_running_mean_is_that_of_the_window_around() -> None:
    values = [1.0, 5.0, 3.0, 7.0]
    assert running_mean(values, 1) == values
    assert running_mean(values, 3) == [3.0, 3.0, 5.0, 5.0]
    assert running_mean([4.0] * 9, 4) == [4.0] * 9


def test_values_are_compared_rank_by_rank_and_rounding_has_no_ratio() -> None:
    one = Moved("a", "k", "decoder", 0, [4.0, 2.0, 1e-9], [5.0, 1.0, 1.0], 0.3)
    assert value_changes([one]) == [0.25, -0.5]
    assert values_text([one]) == "−42.5 to +17.5 %"
    assert spread_of([]) is None


def test_seven_billion_parameters_stay_a_small_page() -> None:
    assert len(drawing("sorsa").html.encode()) < 600_000


def test_the_same_run_gives_the_same_bytes() -> None:
    assert to_html(make_tuning_report("hra")) == drawing("hra").html
