"""What is said of padding is what the runtime does with each layout."""

from __future__ import annotations

from dataclasses import replace

import pytest

from surgery.architectures.base import AttentionSite
from surgery.report.card import to_card
from surgery.report.costs import quantities
from surgery.report.figures.savings import savings_bars
from surgery.report.html import to_html
from surgery.report.model.report import PairReport, Report, SiteReport
from surgery.report.text.executed import executed_text
from surgery.report.text.quantity_tables import quantity_tables
from surgery.runtime.heads import SiteRanks
from tests.report.factory import make_report, sites_of

LENGTHS = {"encoder": 1500, "decoder": 448, "cross": 1500}


def ranks_of(site: AttentionSite, layout: str, pairs: str) -> SiteRanks:
    """Return ranks as a layout has them; a pair that is not named stays whole."""
    heads, full = site.kv_heads, site.head_dim
    qk, vo = {
        "ragged": (tuple(8 + 5 * head % 40 for head in range(heads)), (40, 44) * (heads // 2)),
        "block": ((24,) * heads, (40,) * heads),
        "tied": ((32,) * heads, (32,) * heads),
    }[layout]
    whole = (full,) * heads
    return SiteRanks(qk if "qk" in pairs else whole, vo if "vo" in pairs else whole)


def reported(size: str, layout: str, *, scope: str, pairs: str = "qk vo") -> Report:
    every = sites_of(size)
    sites = [site for site in every if site.scope == scope]
    ranks = {site.path: ranks_of(site, layout, pairs) for site in sites}
    shapes = {
        stored.weight: ((stored.out_features, stored.in_features), 2)
        for site in every
        for stored in (site.q, site.k, site.v, site.o)
    }

    def pair(site: AttentionSite, name: str) -> PairReport:
        kept = list(getattr(ranks[site.path], name))
        return PairReport(kept, site.head_dim, untouched=None if name in pairs else "not asked for")

    told = [
        SiteReport(
            site.path,
            site.scope,
            site.layer,
            site.heads,
            site.kv_heads,
            site.head_dim,
            pair(site, "qk"),
            pair(site, "vo"),
        )
        for site in sites
    ]
    counted = quantities(every, ranks, shapes, shapes, LENGTHS, {})
    return replace(make_report("tiny"), sites=told, quantities=counted)


@pytest.mark.parametrize("layout", ["ragged", "block"])
def test_an_encoder_pads_under_every_layout_but_tied(layout: str) -> None:
    text = executed_text(reported("tiny", layout, scope="encoder"))
    assert "one width for queries, keys and values" in text
    assert "--layout tied" in text
    assert not executed_text(reported("tiny", "tied", scope="encoder"))


@pytest.mark.parametrize(("size", "scope"), [("llama", "decoder"), ("tiny", "cross")])
def test_a_token_pads_under_ragged_alone(size: str, scope: str) -> None:
    text = executed_text(reported(size, "ragged", scope=scope))
    assert "zeros between them" in text
    assert "--layout block" in text
    for layout in ("block", "tied"):
        assert not executed_text(reported(size, layout, scope=scope))


def test_no_layout_is_promised_where_one_pair_stays_whole() -> None:
    text = executed_text(reported("tiny", "tied", scope="encoder", pairs="vo"))
    assert "No layout" in text
    assert "--layout" not in text


def test_a_token_that_multiplies_more_than_before_says_so() -> None:
    ragged = reported("llama", "ragged", scope="decoder")

    def said(factor: float) -> str:
        scaled = [replace(one, before=factor * one.before) for one in ragged.quantities]
        return executed_text(replace(ragged, quantities=scaled))

    assert "multiplies more than before" in said(0.1)
    assert "multiplies more than before" not in said(10)


@pytest.mark.parametrize(("layout", "times"), [("ragged", 1), ("block", 0)])
def test_what_is_executed_stands_beside_the_flops_and_nowhere_else(layout: str, times: int) -> None:
    report = reported("llama", layout, scope="decoder")
    page, card = to_html(report), to_card(report)
    assert page.count(">Executed</th>") == times
    assert card.count("| executed |") == times
    assert not any("executed" in picture.alt + picture.svg for picture in savings_bars(report))


def test_what_runs_as_stored_has_no_column_of_its_own() -> None:
    *_, padded = quantity_tables(reported("llama", "ragged", scope="decoder").quantities)
    *_, stored = quantity_tables(reported("llama", "block", scope="decoder").quantities)
    assert (padded.title, padded.padded, stored.padded) == ("FLOPs", True, False)
