"""Page, card, screen and picture of narrower feed-forward blocks: the same facts everywhere."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import cache

import pytest
import yaml

from surgery.report.card import to_card
from surgery.report.figures import model_column
from surgery.report.figures.canvas import FROZEN, NARROW, NEURONS
from surgery.report.html import to_html
from surgery.report.model.layers import LayersReport, LayerStep, LayerTower
from surgery.report.model.report import FeedForwardReport, Report, Saving
from surgery.report.serialise import to_json
from surgery.report.text.damage import COUNTED, NOT_HELD_OUT, damage_text
from surgery.report.text.feed_forward import (
    FITTED,
    UNCOUPLED,
    form_text,
    narrower_sentence,
    neuron_parameters,
    refit_text,
    widths_text,
)
from surgery.report.text.feed_forward_tables import block_rows, columns, tower_rows
from surgery.report.text.layers import steps_text
from surgery.report.text.summary import is_pruned, is_structure, sentence
from surgery_cli.render import report_view
from tests.report.drawn import Drawn, drawn
from tests.report.factory import HOSTILE
from tests.report.feed_forward_factory import SIZES, Size, hostile_narrower, make_narrower
from tests.report.laid_out import collisions, cut_off, dots, size_of
from tests.report.test_pages import Page
from tests.report.test_render import _shown

REPORTS = {
    "tiny": make_narrower("tiny", leaked=2),
    "large": make_narrower("large", attention=True),
    "llama": make_narrower("llama", measured=True),
    "dry": make_narrower("large", dry=True),
    "deleted": make_narrower("tiny", refit=False),
    "hostile": hostile_narrower(),
}
FITTING = [name for name in REPORTS if name not in ("dry", "hostile")]
PHONE = 390 - 2 * 16  # pixels of a phone's width that a page gives to a picture


@cache
def drawing(name: str) -> Drawn:
    return drawn(REPORTS[name])


def html_of(name: str) -> str:
    return drawing(name).html


def words_of(html: str) -> str:
    return " ".join(" ".join(Page(html).words).split())


def views(report: Report) -> dict[str, str]:
    return {
        "page": words_of(to_html(report)),
        "card": " ".join(to_card(report).replace("\\", "").split()),
        "screen": " ".join(_shown(report_view(report)).split()),
    }


def with_blocks(report: Report, **changes: object) -> Report:
    blocks = [replace(one, **changes) for one in report.feed_forward]
    return replace(report, feed_forward=blocks)


@pytest.mark.parametrize("name", FITTING)
def test_page_card_and_screen_agree(name: str) -> None:
    report = REPORTS[name]
    page, card = words_of(html_of(name)), to_card(report)
    screen = _shown(report_view(report))
    damage = damage_text(report)
    assert damage is not None
    for text in (page, card, " ".join(screen.split())):
        assert sentence(report) in text
        assert damage.text in text
        assert refit_text(report) in text.replace("A block's", "a block's")
    keys = [column.key for column in columns(report)]
    for row in tower_rows(report):
        cells = " +".join(re.escape(row[key]) for key in keys)
        assert re.search(rf"{row['label']} +{row['blocks']} +{cells}", screen)
        told = " | ".join([row["label"], row["blocks"], *(row[key] for key in keys)])
        assert told in card
    for row in block_rows(report):
        assert row["label"] in page
        assert row["fitted"] in page


def test_the_headline_tells_the_share_of_the_model_first() -> None:
    model = REPORTS["tiny"].savings[-1]
    assert sentence(REPORTS["tiny"]) == (
        f"{100 * model.removed:.1f} % of the model is gone, 29.2 % of its feed-forward "
        "parameters: each feed-forward block keeps 960 of 1,536 neurons in the encoder and "
        "1,216 of 1,536 in the decoder."
    )
    assert sentence(REPORTS["llama"]).endswith("block keeps 24,448 of 28,672 neurons.")
    assert "would go" in sentence(REPORTS["dry"]) and "would keep" in sentence(REPORTS["dry"])


def test_a_tower_that_kept_everything_is_told(undrawn: None) -> None:
    report = REPORTS["tiny"]
    blocks = [
        replace(one, kept=one.before) if one.scope == "decoder" else one
        for one in report.feed_forward
    ]
    assert "and all 1,536 in the decoder." in sentence(replace(report, feed_forward=blocks))
    whole = with_blocks(report, kept=1536)
    assert not is_pruned(whole) and damage_text(whole) is None
    assert sentence(whole).startswith("Nothing was cut")
    assert "Nothing merges it back" not in words_of(to_html(whole))


def test_layers_that_left_are_told_everywhere(undrawn: None) -> None:
    steps = [
        LayerStep("decoder:14", 0.0712, {"decoder:14": 0.0712, "decoder:7": 0.0913}),
        LayerStep("decoder:7", 0.152, {"decoder:7": 0.152}),
    ]
    layers = LayersReport([LayerTower("decoder", 82, [7, 14])], "trials", steps, "nat/token")
    narrower = replace(REPORTS["llama"], layers=layers)
    alone = replace(with_blocks(narrower, kept=28_672), options={"layers": "2"})
    for report, sizes in ((narrower, "each feed-forward block keeps"), (alone, "the stack.")):
        assert f"layers 7, 14 of 82 left the stack{'.' if report is alone else ''}" in sentence(
            report
        )
        for text in views(report).values():
            assert sentence(report) in text and sizes in text
            assert (
                "decoder:14 (0.0712 nat/token; next best tried decoder:7, 0.0913 nat/token)" in text
            )
            assert "decoder:14" in text and "7, 14; 80 of 82 stay" in text
        assert is_pruned(report) and damage_text(report) is not None
    assert "fewer layers and narrower" in form_text(narrower)
    assert "with fewer layers. Whatever" in form_text(alone)
    dry = replace(alone, output=None, layers=LayersReport([LayerTower("decoder", 82, [])]))
    assert sentence(dry).endswith("layers would leave, and which is told by real input.")
    influence = replace(layers, order="influence", unit="")
    assert "influence 0.0712; next best tried" in steps_text(influence)


def test_widths_that_differ_within_a_tower_are_told_as_a_range() -> None:
    blocks = [FeedForwardReport("a", "decoder", i, 1536, 960 + 64 * i, 0.1, 0.2) for i in range(3)]
    assert widths_text(blocks) == "960–1,088 of 1,536"


@pytest.mark.parametrize("name", REPORTS)
def test_no_share_is_rounded_to_nothing(undrawn: None, name: str) -> None:
    tiny = Saving("model", "Whole model", 10**9, 10**9 - 2 * 10**5, 10**9 - 2 * 10**5)
    report = REPORTS[name]
    report = replace(report, savings=[*report.savings[:-1], tiny])
    for text in views(report).values():
        assert "0.02 %" in text
        assert not re.search(r"(?<![\d.])0\.0 ?%", text)


@pytest.mark.parametrize("name", REPORTS)
def test_the_page_makes_no_request_and_its_ids_are_unique(name: str) -> None:
    page = Page(html_of(name))
    assert not {"script", "link", "iframe", "object", "img", "form"} & set(page.tags)
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert not page.handlers
    assert len(page.ids) == len(set(page.ids))


def test_hostile_strings_stay_text() -> None:
    html, card = html_of("hostile"), to_card(REPORTS["hostile"])
    screen = _shown(report_view(REPORTS["hostile"]))
    assert "<script" not in html
    assert "\x1b" not in html + card + screen
    assert any("<script>alert(1)</script>" in word for word in Page(html).words)
    body = card.split("---\n", 2)[2]
    text = "\n".join(line for line in body.splitlines() if not line.startswith("    "))
    assert "<script" not in text.replace("\\<", "")
    assert HOSTILE not in text


@pytest.mark.parametrize("name", REPORTS)
def test_the_picture_is_well_formed_described_and_fits_a_phone(name: str) -> None:
    (picture,) = drawing(name).by_maker["model_column"]
    root = ET.fromstring(picture.svg)
    assert root.findtext("{http://www.w3.org/2000/svg}title") == picture.title
    assert root.findtext("{http://www.w3.org/2000/svg}desc") == picture.alt
    width, height = size_of(picture.svg)
    assert width == NARROW and not picture.wide
    assert height * PHONE / width < 700, "taller than a phone's screen"
    for scope, layers in size_named(name).widths.items():
        assert scope in picture.alt and widths_of(layers) in picture.alt


def size_named(name: str) -> Size:
    return SIZES["large" if name == "dry" else name if name in SIZES else "tiny"]


def widths_of(layers: tuple[int, int]) -> str:
    before, kept = layers
    return f"{kept:,} of {before:,} neurons"


def test_both_errors_of_every_block_are_drawn_and_deletion_is_the_worse() -> None:
    (picture,) = model_column(REPORTS["large"])
    filled, hollow = dots(picture.svg, NEURONS), dots(picture.svg, "#ffffff")
    # one more of each is in the key
    assert len(filled) == len(hollow) == len(REPORTS["large"].feed_forward) + 1
    assert all(a[0] < b[0] for a, b in zip(filled[1:], hollow[1:], strict=True))
    assert "without refit" in picture.alt


def test_without_refit_there_is_one_error() -> None:
    (picture,) = model_column(REPORTS["deleted"])
    assert not dots(picture.svg, NEURONS)
    assert "Without refit" not in html_of("deleted") and "refitted" not in picture.svg
    assert refit_text(REPORTS["deleted"]).endswith("neurons were only deleted")
    for report, final in ((REPORTS["deleted"], UNCOUPLED), (REPORTS["tiny"], FITTED)):
        assert final in words_of(to_html(report))
        assert final in to_card(report)


def test_attention_is_drawn_where_the_report_holds_it() -> None:
    for name, there in (("large", True), ("tiny", False)):
        (picture,) = model_column(REPORTS[name])
        assert ("attention" in picture.svg) == there
        assert (f"fill: {FROZEN}" in picture.svg) == there
        assert ("Attention beside" in picture.caption) == there
        assert (", attention " in picture.alt) == there
        assert ("of its attention and" in narrower_sentence(REPORTS[name])) == there


@pytest.mark.parametrize("name", ["tiny", "large", "llama"])
def test_rows_are_to_scale_in_parameters(name: str) -> None:
    each = neuron_parameters(REPORTS[name])
    assert each == dict.fromkeys(SIZES[name].widths, SIZES[name].each)
    bare = replace(REPORTS[name], savings=[])
    assert neuron_parameters(bare) == {}
    (picture,) = model_column(bare)
    assert "in neurons" in picture.caption and "Feed-forward neurons" in picture.svg


@pytest.mark.parametrize("error", [0.0, math.nan, math.inf, 1e-12], ids=str)
def test_odd_errors_are_drawn_or_left_out(error: float) -> None:
    first, *rest = REPORTS["tiny"].feed_forward
    odd = replace(first, fitted_error=error)
    for blocks in ([odd, *rest], [odd]):
        report = replace(REPORTS["tiny"], feed_forward=blocks)
        (picture,) = model_column(report)
        assert not collisions(picture.svg) and not cut_off(picture.svg)
        to_html(report)
        to_card(report)
        _shown(report_view(report))
    same = with_blocks(REPORTS["tiny"], fitted_error=error, deleted_error=error)
    (picture,) = model_column(same)
    assert not collisions(picture.svg) and not cut_off(picture.svg)


def test_what_is_missing_is_left_out(undrawn: None) -> None:
    bare = replace(
        REPORTS["tiny"],
        savings=[],
        quantities=[],
        measurements=[],
        notes=[],
        options={},
        command=None,
        calibration=None,
        seconds={},
    )
    for report in (bare, replace(bare, output=None)):
        for text in views(report).values():
            assert "960" in text
            assert "nan" not in text.split()
    assert not is_structure(replace(bare, output=None))


def test_what_was_counted_alone_tells_no_price() -> None:
    report = REPORTS["dry"]
    for text in views(report).values():
        assert COUNTED in text
        assert "Error" not in text
    assert "How to go on" not in html_of("dry")
    assert "what would be saved" in html_of("dry")
    assert [column.key for column in columns(report)] == ["before", "kept", "removed"]


def test_a_result_that_nothing_was_held_out_for_is_warned_of(undrawn: None) -> None:
    told = REPORTS["tiny"].calibration
    assert told is not None
    report = replace(REPORTS["tiny"], calibration=replace(told, held_out=None))
    text = damage_text(report)
    assert text is not None and (text.text, text.tone) == (NOT_HELD_OUT, "bad")
    page = to_html(report)
    assert 'class="warning"' in page and "was not measured" in page
    assert "## What it cost is not known\n" in to_card(report)


def test_shared_samples_are_warned_of_everywhere(undrawn: None) -> None:
    for text in views(REPORTS["tiny"]).values():
        assert "2 samples are in both the calibration and the evaluation data" in text


def test_the_price_is_a_headline_figure() -> None:
    tiles = words_of(html_of("tiny"))
    assert "Word error rate 5.26 → 5.81 % on 12 held-out windows of speech/calib" in tiles
    assert "Error on held-out rows 0.0912" in tiles
    assert "Perplexity 5.12 → 5.31 WikiText-2 test" in words_of(html_of("llama"))


@pytest.mark.parametrize(
    ("name", "auto_class"),
    [("large", "AutoModelForSpeechSeq2Seq"), ("llama", "AutoModelForCausalLM")],
)
def test_the_card_is_of_a_stock_checkpoint(name: str, auto_class: str) -> None:
    _, front, body = to_card(REPORTS[name]).split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["library_name"] == "transformers"
    assert matter["base_model"] == SIZES[name].name
    assert {"model-surgery", "compress", "pruned"} <= set(matter["tags"])
    assert form_text(REPORTS[name]) in body
    assert f'{auto_class}.from_pretrained("path/to/this/directory")\n' in body
    assert "trust_remote_code" not in body and "modeling_surgery.py" not in body
    assert "surgery merge" not in body
    assert REPORTS[name].source.path not in body
    assert f"{auto_class}.from_pretrained(" in html_of(name)


def test_a_large_model_is_a_small_page() -> None:
    assert len(html_of("llama").encode()) < 400_000
    assert len(to_json(REPORTS["llama"]).encode()) < 40_000


def test_the_same_report_gives_the_same_bytes() -> None:
    assert to_html(make_narrower("tiny", leaked=2)) == html_of("tiny")
