"""What the page of a report about attention blocks shows."""

from __future__ import annotations

from typing import Any

from surgery.report.figures import pair_errors, rank_maps, savings_bars, spectra, trade_off
from surgery.report.figures.canvas import PAIR_TITLES
from surgery.report.figures.errors import errors_of
from surgery.report.model.report import PairReport, Report, SiteReport
from surgery.report.pages.calibration import calibration_context, calibration_tiles
from surgery.report.pages.page import Group, Tile, View, measured_tiles, saving_tiles
from surgery.report.text.damage import is_priced
from surgery.report.text.executed import executed_text
from surgery.report.text.quantity_tables import quantity_tables
from surgery.report.text.summary import (
    PAIR_NAMES,
    PAIRS,
    asked_to_cut,
    is_pruned,
    is_structure,
    pair_of,
    quantity_named,
    sites_by_scope,
    untouched_reasons,
    worst_error,
)
from surgery.report.wording import amount, capitalised, count, scientific


def attention_view(report: Report) -> View:
    """Return tiles, pictures and tables of ranks, savings and errors."""
    return View(
        template="attention.html.j2",
        kicker=f"{report.method}: {_kicker(report)}",
        tiles=_tiles(report),
        context={
            "structure": is_structure(report),
            "pruned": is_pruned(report),
            "executed": capitalised(executed_text(report)),
            "tables": quantity_tables(report.quantities),
            "savings_pictures": savings_bars(report),
            "groups": _groups(report),
            "layers": _layers(report),
            "untouched": untouched_reasons(report),
            "told": calibration_context(report),
        },
    )


def _kicker(report: Report) -> str:
    """Say what the page tells, and no more than it can tell."""
    if is_structure(report):
        return "what is in it"
    if report.output is None:
        return "what is in it, and what a cut would save"
    if not is_pruned(report):
        return "rewritten, and nothing cut"
    if is_priced(report):
        return "what was saved, and what it cost"
    return "what was saved; what it cost was not measured"


def _tiles(report: Report) -> list[Tile]:
    saved = _content_tiles(report) if is_structure(report) else _saving_tiles(report)
    measured = calibration_tiles(report) + _measured_tiles(report)
    # where nothing was cut, what matters first is that nothing changed
    return saved + measured if is_pruned(report) else measured + saved


def _content_tiles(report: Report) -> list[Tile]:
    titles = {"attention": "Attention parameters in scope", "model": "Parameters of the model"}
    tiles = [
        Tile(titles[one.name], count(one.before), f"{one.before:,}")
        for one in report.savings
        if one.name in titles
    ]
    for name in ("disk_bytes", "kv_bytes_per_1000_tokens"):
        one = quantity_named(report, name)
        if one is not None:
            tiles.append(Tile(one.title, amount(one.before, one.unit), "in the stored dtype"))
    return tiles


def _saving_tiles(report: Report) -> list[Tile]:
    pairs = tuple((pair, f"{PAIR_NAMES[pair]} parameters removed") for pair in PAIRS)
    whole = ("attention", "Attention parameters removed"), ("model", "Of the model")
    return saving_tiles(report, (*pairs, *whole))


def _measured_tiles(report: Report) -> list[Tile]:
    tiles = measured_tiles(report)
    exact = worst_error(report, "exact_error")
    if exact is not None:
        what = "worst head before any cut, against the original, in float64"
        tiles.append(Tile("Numerical deviation", scientific(exact), what))
    return tiles


def _groups(report: Report) -> list[Group]:
    groups = [
        Group(
            "Rank kept, layer by layer and head by head",
            "The darker, the more of a head's components stay."
            + (" Hatched: left as it was." if _partly_left(report) else ""),
            rank_maps(report),
        ),
        Group(
            "Spectra and the cut",
            "What each component of a head contributes"
            + ("" if report.calibration is None else " to what it computes on real input")
            + ". A steep curve has a tail to cut; a flat one has none.",
            spectra(report),
        ),
        _errors(report),
        Group(
            "What other cuts would save",
            "Share of the vectors of each pair that would go.",
            trade_off(report) if asked_to_cut(report) or report.output is None else [],
        ),
    ]
    return [group for group in groups if group.pictures]


def _partly_left(report: Report) -> bool:
    """Whether a pair that was cut in some blocks of a scope was left as it was in others."""
    return any(
        len({pair_of(site, pair).untouched is None for site in sites}) > 1
        for sites in sites_by_scope(report).values()
        for pair in PAIRS
    )


def _errors(report: Report) -> Group:
    if report.calibration is None:
        intro = (
            "How far each head's product is from the original. It says where the cut hurts; "
            "only a measurement on real input says how much."
        )
    elif report.output is None:
        title = "Error of each pair"
        intro = "How far what each head computes on real input would be from the original."
        return Group(title, intro, pair_errors(report))
    else:
        intro = (
            "How far the product of each head's weights is from the original's. The cut was "
            "chosen by what heads compute on real input: what that never shows may go, and "
            "counts in full here."
        )
    return Group("Error in weight space", intro, pair_errors(report))


def _layers(report: Report) -> list[dict[str, Any]]:
    return [
        {
            "path": site.path,
            "heads": str(site.heads)
            if site.heads == site.kv_heads
            else f"{site.heads} / {site.kv_heads} KV",
            "pairs": [_pair(site, name) for name in PAIRS],
        }
        for sites in sites_by_scope(report).values()
        for site in sites
    ]


def _pair(site: SiteReport, name: str) -> dict[str, Any]:
    pair: PairReport = pair_of(site, name)
    ranks = pair.ranks or [0]
    mean = sum(ranks) / len(ranks)
    errors = errors_of(pair)
    low, high = min(ranks), max(ranks)
    return {
        "name": name,
        "title": PAIR_TITLES[name],
        "untouched": pair.untouched,
        "mean": f"{mean:.1f}",
        "share": f"{100 * mean / max(pair.full_rank, 1):.0f}",
        "span": str(low) if low == high else f"{low}–{high}",
        "ranks": " ".join(map(str, ranks)) + f" of {pair.full_rank}",
        "error": scientific(sum(errors) / len(errors)) if errors else "—",
    }
