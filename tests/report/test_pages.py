"""The page and the card carry everything, ask for nothing, and obey nobody's markup."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import pytest
import yaml

from surgery.report.card import to_card
from surgery.report.html import to_html
from tests.report.drawn import Drawn, drawn
from tests.report.factory import HOSTILE, ROPE, hostile_report, make_report

REPORTS = {
    "tiny": make_report("tiny"),
    "llama": make_report("llama"),
    "lossless": make_report("tiny", lossless=True),
    "inspect": make_report("tiny", inspect=True),
    "hostile": hostile_report(),
}
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects tags and addresses, and checks that elements close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, value in attrs:
            if key in ("href", "src", "xlink:href", "action", "data", "poster"):
                self.addresses.append(value or "")
            if key.startswith("on"):
                self.handlers.append(key)
            if key == "id":
                self.ids.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@cache
def drawing(name: str) -> Drawn:
    return drawn(REPORTS[name])


def html_of(name: str) -> str:
    return drawing(name).html


@pytest.mark.parametrize("name", sorted(REPORTS))
def test_the_page_makes_no_request(name: str) -> None:
    html = html_of(name)
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "img", "form"} & set(page.tags)
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert not page.handlers
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


@pytest.mark.parametrize("name", sorted(REPORTS))
def test_ids_are_unique_across_pictures(name: str) -> None:
    ids = Page(html_of(name)).ids
    assert len(ids) == len(set(ids))


def test_hostile_strings_stay_text() -> None:
    html = html_of("hostile")
    assert "<script" not in html
    assert "\x1b" not in html
    assert "49" not in re.findall(r"\{\{.*?\}\}", html)
    assert any("<script>alert(1)</script>" in word for word in Page(html).words)


@pytest.mark.parametrize("name", sorted(REPORTS))
def test_pictures_are_well_formed_and_described(name: str) -> None:
    pictures = list(drawing(name))
    assert pictures
    for picture in pictures:
        root = ET.fromstring(picture.svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("viewBox")
        assert root.findtext("{http://www.w3.org/2000/svg}title") == picture.title
        assert root.findtext("{http://www.w3.org/2000/svg}desc") == picture.alt


def test_drawn_again_a_page_is_the_same_and_matplotlibs_settings_are_left_alone() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    assert to_html(make_report("tiny")) == html_of("tiny")
    assert dict(mpl.rcParams) == before


def test_the_page_says_what_matters() -> None:
    report = REPORTS["llama"]
    words = " ".join(Page(html_of("llama")).words)
    assert ROPE in words
    assert "QK of decoder layers 0–79" in words
    for digest in report.source.sha256.values():
        assert digest in words
    assert report.command is not None
    assert report.command in words


def test_nothing_cut_draws_no_map() -> None:
    assert not drawing("lossless").by_maker["rank_maps"]
    assert "nothing was cut" in " ".join(html_of("lossless").split())


def test_a_rule_that_cuts_nothing_is_told_from_lossless() -> None:
    lossless = REPORTS["lossless"]
    vain = replace(lossless, options={"energy": 0.9999})
    assert "The rule found nothing to cut" in to_html(vain)
    assert "What other cuts would save" in to_html(vain)
    assert "What other cuts would save" not in html_of("lossless")


def test_structure_alone_says_what_is_there() -> None:
    tiny = REPORTS["inspect"]
    sites = [
        replace(
            site,
            qk=replace(site.qk, spectrum=[], ranks=[64] * 6, cut_error=[], cast_error=[]),
            vo=replace(site.vo, spectrum=[], ranks=[64] * 6, cut_error=[], cast_error=[]),
        )
        for site in tiny.sites
    ]
    words = " ".join(Page(to_html(replace(tiny, sites=sites))).words)
    assert "What it holds" in words
    assert "Attention blocks in scope: 4 encoder" in words
    assert "would" not in words


def test_a_report_without_spectra_or_errors_still_renders() -> None:
    from surgery.report.model.report import PairReport

    tiny = REPORTS["tiny"]
    bare = [
        replace(
            site,
            qk=PairReport([40] * 6, 64),
            vo=PairReport([64] * 6, 64, spectrum=[[0.0] * 64] * 6),
        )
        for site in tiny.sites
    ]
    report = replace(tiny, sites=bare, savings=[], quantities=[], measurements=[])
    Page(to_html(report))
    Page(to_html(replace(report, sites=[])))
    to_card(report)


def test_a_large_model_is_drawn_small() -> None:
    assert len(to_html(make_report("large")).encode()) < 3_000_000


@pytest.mark.parametrize("name", sorted(REPORTS))
def test_the_cards_front_matter_parses(name: str) -> None:
    card = to_card(REPORTS[name])
    _, front, body = card.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["library_name"] == "model-surgery"
    assert "model-surgery" in matter["tags"]
    assert "surgery.load(" in body
    assert ("base_model" in matter) == (name == "llama")


def test_the_card_escapes_and_does_not_tell_paths() -> None:
    report = hostile_report()
    card = to_card(report)
    body = card.split("---\n", 2)[2]
    text = "\n".join(line for line in body.splitlines() if not line.startswith("    "))
    assert "<script" not in text.replace("\\<", "")
    assert "\x1b" not in card
    assert HOSTILE not in text
    assert all(line != "# h" for line in card.splitlines())
    local = make_report("tiny")
    assert local.source.path not in to_card(local)
