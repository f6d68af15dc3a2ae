"""Pages, cards and pictures of split and re-parameterised models: the same facts everywhere."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import cache

import pytest
import yaml

from surgery.report.card import to_card
from surgery.report.html import to_html
from surgery.report.model.report import LinearReport
from surgery.report.serialise import to_json
from surgery.report.text.linear_tables import columns, role_rows
from surgery.report.text.linear_views import role_groups
from surgery.report.text.linears import growth_text
from surgery_cli.render import report_view
from tests.report.drawn import Drawn, drawn
from tests.report.factory import HOSTILE
from tests.report.linear_factory import (
    BEHIND,
    METHODS,
    SPLITS,
    bare,
    hostile_linear_report,
    make_linear_report,
)
from tests.report.test_pages import Page
from tests.report.test_render import _shown

LARGE = make_linear_report("sorsa", "7b")


@cache
def drawing(method: str, size: str) -> Drawn:
    return drawn(make_linear_report(method, size))


def html_of(method: str, size: str = "tiny") -> str:
    return drawing(method, size).html


def words_of(html: str) -> str:
    return " ".join(" ".join(Page(html).words).split())


@pytest.mark.parametrize("method", METHODS)
def test_page_card_and_screen_agree(method: str) -> None:
    report = make_linear_report(method)
    assert report.trainable is not None
    page, card = words_of(html_of(method)), to_card(report)
    screen = _shown(report_view(report))
    assert {len(role_groups(report)) + 1} == {len(role_rows(report))} == {17}
    for row in role_rows(report)[:-1]:
        assert row["trainable"] in page
        assert row["trainable"] in card
        assert re.search(
            rf"{row['label']} +{row['maps']} +{row['shape']} +{row['trainable']}", screen
        )
    growth = growth_text(report.trainable, dry=False)
    assert growth.startswith("The file grows by")
    assert growth in page
    assert growth in card
    for text in (page, card, screen):
        assert "surgery merge" in text
        assert "surgery tune" not in text


@pytest.mark.parametrize("method", METHODS)
def test_only_a_split_speaks_of_captured_energy(method: str) -> None:
    report = make_linear_report(method)
    keys = {column.key for column in columns(report)}
    assert ("captured" in keys) == ("shortfall" in keys) == (method in SPLITS)
    pictures = drawing(method, "tiny").by_maker
    assert bool(pictures["captured_maps"]) == (method in SPLITS)
    assert bool(pictures["principal_spectra"]) == (method in SPLITS + BEHIND)
    assert ("Energy captured" in html_of(method)) == (method in SPLITS)
    assert pictures["trainable_bars"]
    assert pictures["schematic"]


@pytest.mark.parametrize("method", [*METHODS, "a-newer-method"])
def test_what_is_missing_is_a_dash(method: str) -> None:
    known = make_linear_report(method if method in METHODS else "sorsa")
    report = bare(replace(known, method=method))
    assert "—" in words_of(to_html(report))
    to_card(report)
    assert "—" in _shown(report_view(report))
    # A dry run of a known method has a test of its own.
    dry = [known] if method not in METHODS else []
    for nothing in (replace(report, linears=[], trainable=known.trainable), *dry):
        partly = replace(nothing, output=None, trainable=known.trainable)
        to_html(partly)
        to_card(partly)
        _shown(report_view(partly))


def test_odd_figures_are_drawn() -> None:
    """Zero and one-component spectra, NaN, a map outside the layers, fused roles."""
    maps = [
        LinearReport("a", "q,k,v", "decoder", 0, 96, 32, 5, [0.0], 0.0, 0.0, 0.0, 0.0),
        LinearReport("b", "q,k,v", "decoder", 1, 96, 30, 5, [math.nan, 1.0], math.nan, 1.0),
        LinearReport("c", "head", "", None, 7, 1, 0, [2.0] * 3, 1.0, math.inf, math.nan, math.inf),
        LinearReport("d", "head", "", None, 0, 0, 0, [], None, -1e-9),
    ]
    for report in (replace(LARGE, linears=maps), replace(LARGE, linears=maps[3:])):
        text = words_of(to_html(report))
        assert "q,k,v" in text or report.linears is not maps
        _shown(report_view(report))
        to_card(report)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", ["tiny", "7b"])
def test_pictures_are_well_formed_and_described(method: str, size: str) -> None:
    for picture in drawing(method, size):
        root = ET.fromstring(picture.svg)
        assert root.findtext("{http://www.w3.org/2000/svg}title") == picture.title
        assert root.findtext("{http://www.w3.org/2000/svg}desc") == picture.alt
    ids = Page(html_of(method, size)).ids
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("method", METHODS)
def test_hostile_names_stay_text(method: str) -> None:
    report = hostile_linear_report(method)
    html = to_html(report)
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "img", "form"} & set(page.tags)
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert not page.handlers
    assert "\x1b" not in html
    assert any("<script>alert(1)</script>" in word for word in page.words)
    card = to_card(report)
    body = card.split("---\n", 2)[2]
    text = "\n".join(line for line in body.splitlines() if not line.startswith("    "))
    assert "<script" not in text.replace("\\<", "")
    assert HOSTILE not in text
    assert "\x1b" not in _shown(report_view(report))


@pytest.mark.parametrize("method", METHODS)
def test_the_card_is_honest(method: str) -> None:
    report = make_linear_report(method, "7b")
    _, front, body = to_card(report).split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["library_name"] == "model-surgery"
    assert matter["base_model"] == "meta-llama/Llama-2-7b-hf"
    assert method in matter["tags"]
    assert "pruned" not in to_card(report)
    assert "This step trained nothing and removed nothing" in body
    prefix = {"diagonal": "singular"}.get(method, method)
    assert f'startswith("{prefix}_")' in body
    assert "surgery.load(" in body


def test_seven_billion_parameters_stay_a_small_page() -> None:
    assert len(html_of("sorsa", "7b").encode()) < 600_000
    assert len(to_json(LARGE).encode()) < 400_000


def test_the_same_report_gives_the_same_bytes() -> None:
    assert to_html(make_linear_report("sorsa")) == html_of("sorsa")


@pytest.mark.parametrize("method", METHODS)
def test_a_dry_runs_page_says_would_and_leads_nowhere(method: str) -> None:
    report = make_linear_report(method, dry=True)
    text = words_of(to_html(report))
    for told in (to_card(report), _shown(report_view(report))):
        assert "would be trainable" in told
    assert "What could be trained, and what it would take" in text
    assert "would be trainable" in text
    assert "The file would grow by" in text
    assert "How to go on" not in text
    assert "How to go on" in html_of(method)
