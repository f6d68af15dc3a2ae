"""An error never stands alone: page, card and screen say what it is worth, or that nobody knows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from surgery.choices.option import options_of
from surgery.engine.compress.options import CompressOptions
from surgery.engine.cut.calibrate import Calibrate
from surgery.engine.cut.options import Options
from surgery.report.card import to_card
from surgery.report.html import to_html
from surgery.report.model.calibration import HeldOut, Interval, SearchStep
from surgery.report.model.report import Measurement, PairReport, Report
from surgery.report.text.calibration import NO_WORDS, bound_text, meaning_text
from surgery.report.text.damage import UNMEASURED, damage_text
from surgery.report.text.few_words import few_words
from surgery.report.text.summary import worded_items
from surgery.training.options import TuneOptions
from surgery_cli.render import report_view
from tests.report.calibrated_factory import calibrated
from tests.report.factory import make_report
from tests.report.linear_factory import make_linear_report
from tests.report.test_pages import Page
from tests.report.test_render import _shown
from tests.report.tuning_factory import make_tuning_report

ERROR = Interval(0.0891, 0.0815, 0.0950)
HEARD = HeldOut(
    rows=2,
    error=ERROR,
    agreement=0.981,
    figure="word error rate",
    before=0.0526,
    after=0.0789,
    difference=Interval(0.0263, 0.0, 0.05),
)
NOT_WRITTEN = HeldOut(rows=2, error=ERROR, agreement=0.981)
READ = HeldOut(
    rows=4,
    error=Interval(0.0408, 0.0381, 0.0442),
    agreement=0.878,
    figure="perplexity",
    before=25.91,
    after=26.07,
    difference=Interval(0.0059, -0.0036, 0.0126),
)


def priced(held_out: HeldOut | None, size: str = "tiny") -> Report:
    """A calibrated cut with no other measurement than its price."""
    report = calibrated(size)
    assert report.calibration is not None
    told = replace(report.calibration, held_out=held_out)
    return replace(report, calibration=told, measurements=[])


def views(report: Report) -> dict[str, str]:
    return {
        "page": " ".join(" ".join(Page(to_html(report)).words).split()),
        "card": to_card(report).replace("\\", ""),
        "screen": " ".join(_shown(report_view(report)).split()),
    }


def means(report: Report) -> str:
    assert report.calibration is not None
    return meaning_text(report, report.calibration)


def test_the_word_error_rate_stands_beside_the_error(undrawn: None) -> None:
    for view in views(priced(HEARD)).values():
        assert "Word error rate 5.26 % → 7.89 %" in view
        assert "0.0891" in view
        assert NO_WORDS not in view
    page = views(priced(HEARD))["page"]
    assert "Word error rate 5.26 → 7.89 % on 2 held-out windows" in page
    assert "0.0891 on held-out rows, takes the word error rate from 5.26 % to 7.89 %" in page


@pytest.mark.parametrize("held_out", [NOT_WRITTEN, None], ids=["no transcripts", "tried only"])
def test_without_transcripts_every_view_says_that_no_word_error_rate_is_known(
    undrawn: None, held_out: HeldOut | None
) -> None:
    for view in views(priced(held_out)).values():
        assert NO_WORDS.casefold() in view.casefold()


def test_a_divergence_is_told_by_the_perplexity_that_was_measured(undrawn: None) -> None:
    told = means(priced(READ, "llama"))
    assert "0.0408 nat/token on held-out rows, takes the perplexity from 25.91 to 26.07" in told
    assert "neither was measured" in means(priced(None, "llama"))


def test_other_measurements_of_the_cut_are_pointed_to(undrawn: None) -> None:
    report = replace(priced(None), measurements=make_report("tiny").measurements)
    assert report.measurements[0].title in means(report)


def test_a_model_that_writes_nothing_has_no_word_error_rate() -> None:
    report = priced(None)
    assert report.calibration is not None
    silent = replace(report.calibration, output="last hidden state")
    assert "word error rate" not in meaning_text(report, silent)
    text = damage_text(replace(report, calibration=silent))
    assert text is not None
    assert NO_WORDS.casefold() not in text.text.casefold()


def test_little_harm_to_a_language_model_is_told_in_perplexity_and_of_what(
    undrawn: None,
) -> None:
    report = priced(READ, "llama")
    assert report.calibration is not None
    sites = [
        replace(one, qk=PairReport([128] * 8, 128, untouched="not asked for"))
        for one in report.sites
    ]
    told = replace(report.calibration, bound="up_to", search=[SearchStep(0.25, 0.03, True)])
    alone = replace(report, sites=sites, options={"up_to": 0.25, "pairs": ["vo"]}, calibration=told)
    text = bound_text(alone, told)
    assert "0.0953 nat/token (a perplexity about 10.0 % higher)" in text
    assert text.endswith("no more than 25.0 % of the VO, rounded up to whole vectors")
    assert "Search: removed of VO" in views(alone)["screen"]
    assert "Removed of VO" in views(alone)["page"]


@pytest.mark.parametrize(
    ("report", "kicker", "heading"),
    [
        (replace(make_report("tiny"), measurements=[]), "was not measured", "cost is not known"),
        (make_report("tiny"), "what was saved, and what it cost", "## What it cost\n"),
        (priced(HEARD), "what was saved, and what it cost", "## What it cost\n"),
        (make_report("tiny", lossless=True), "nothing cut", "## What it changed\n"),
    ],
    ids=["unmeasured", "measured", "priced", "nothing cut"],
)
def test_a_title_promises_no_price_that_nobody_paid(
    undrawn: None, report: Report, kicker: str, heading: str
) -> None:
    page, card = to_html(report), to_card(report)
    (above,) = [line for line in page.splitlines() if 'class="kicker"' in line]
    assert kicker in above
    assert heading in card
    if "not measured" in kicker:
        assert UNMEASURED in page
        assert "What it cost" not in page


@pytest.mark.parametrize(
    ("report", "says", "says_not"),
    [
        (make_report("tiny"), ["in its encoder self-attention", "weights alone"], ["every"]),
        (make_report("large"), ["decoder self-attention and cross-attention"], ["every"]),
        (make_report("llama"), ["in its decoder self-attention", "of V and O alone"], ["every"]),
        (make_report("tiny", lossless=True), ["every head", "nothing was cut"], ["weights alone"]),
        (calibrated("tiny"), ["told by what the model computes"], ["weights alone"]),
    ],
    ids=["encoder", "all", "one pair", "lossless", "calibrated"],
)
def test_a_card_tells_what_was_cut_and_by_what(
    report: Report, says: list[str], says_not: list[str]
) -> None:
    story = to_card(report).split("## Load it")[0]
    assert all(text in story for text in says)
    assert not any(text in story for text in says_not)


def test_a_card_tells_whose_hashes_it_gives() -> None:
    card = to_card(make_report("tiny")).replace("\\", "")
    assert "SHA-256 of the source's model-00001-of-00002.safetensors" in card


@pytest.mark.parametrize(
    ("report", "without"),
    [
        (make_report("tiny"), "refuses the reduced shapes"),
        (make_report("tiny", lossless=True), "it loads, too: all shapes are the original's"),
        (make_linear_report("sorsa"), "leaves the small parts out, which changes what it computes"),
    ],
    ids=["pruned", "lossless", "split"],
)
def test_a_card_tells_what_transformers_makes_of_it_without_trust(
    report: Report, without: str
) -> None:
    assert f"Without that argument {without}" in to_card(report).replace("transformers ", "")


def test_an_adapters_card_asks_for_its_base() -> None:
    card = to_card(make_tuning_report("core"))
    assert 'surgery.load("path/to/this/directory", base=' in card
    assert "the base's" in card
    assert "load with transformers as usual" not in card
    assert 'base="' not in to_card(make_linear_report("core"))


def test_what_was_measured_on_what_is_told_apart(undrawn: None) -> None:
    report = replace(priced(HEARD), measurements=make_report("tiny").measurements)
    for view in views(report).values():
        assert "on 2 held-out windows of speech/calib, the calibration data." in view
        assert "On the test data: word error rate 2.04 % → 2.31 % on test speech" in view


def test_bad_news_of_the_test_data_is_bad_news() -> None:
    good = replace(HEARD, after=HEARD.before)
    for rates, tone in (((2.0, 2.9), "plain"), ((2.0, 3.1), "bad"), ((2.0, float("nan")), "bad")):
        one = Measurement("wer", "Word error rate", "speech/test", "%", *rates)
        for held_out in (good, None):
            report = replace(priced(held_out), measurements=[one])
            text = damage_text(report)
            assert text is not None and text.tone == tone


def test_a_rate_of_few_words_says_so_wherever_it_stands(undrawn: None) -> None:
    one = Measurement("wer", "Word error rate", "speech/test", "%", 0.0, 12.5, words=8)
    report = replace(priced(replace(HEARD, words=9)), measurements=[one])
    for view in views(report).values():
        assert "only 9 words: one more error is 11.1 points" in view
        assert "only 8 words: one more error is 12.5 points" in view
        assert view.count("only 8 words") >= 2  # in the sentence and in the table
    assert few_words(99) and not few_words(100) and not few_words(None)
    assert few_words(1) == "only 1 word: one more error is 100 points"


def test_options_that_were_switched_off_are_told() -> None:
    for kind in (Options, Calibrate, CompressOptions, TuneOptions):
        for each, told in options_of(kind):
            if "bool" in str(each.type) and each.default is not False and not told.inverted:
                assert worded_items({each.name: False}) == [(each.name, "no")]
    assert worded_items({"by_weights": False, "trials": None}) == []
    assert worded_items({"pairs": ["vo"], "up_to": 0.5}) == [("seams", "vo"), ("up-to", "0.5")]
