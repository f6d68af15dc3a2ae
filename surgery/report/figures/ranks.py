"""Kept rank of every layer and head: one heat map a pair and scope."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from surgery.report.figures.canvas import (
    INK,
    KEPT_MAP,
    NARROW,
    PAIR_TITLES,
    PAPER,
    WIDE,
    Picture,
    axes,
    draw,
    identifier,
    plain,
    whole_ticks,
)
from surgery.report.figures.heat_map import colour_scale
from surgery.report.model.report import Report, SiteReport
from surgery.report.text.summary import PAIRS, pair_of, sites_by_scope
from surgery.report.wording import percent

_ANNOTATED_CELLS = 150
_WIDE_LAYERS = 40


def rank_maps(report: Report) -> list[Picture]:
    """Draw the kept rank per layer and key/value head.

    Only pairs that lost something are drawn: a map of one colour says nothing.
    """
    pictures: list[Picture] = []
    for scope, sites in sites_by_scope(report).items():
        for pair in PAIRS:
            if any(min(pair_of(site, pair).ranks) < site.head_dim for site in sites):
                pictures.append(_map(scope, pair, sites))
    return pictures


def _map(scope: str, pair: str, sites: list[SiteReport]) -> Picture:
    layers = [site.layer for site in sites]
    heads = max(site.kv_heads for site in sites)
    full = max(pair_of(site, pair).full_rank for site in sites)
    ranks = np.full((heads, len(sites)), np.nan)
    for column, site in enumerate(sites):
        kept = pair_of(site, pair).ranks
        ranks[: len(kept), column] = kept
    head = "KV head" if sites[0].kv_heads < sites[0].heads else "head"
    wide = len(layers) > _WIDE_LAYERS
    width = WIDE if wide else NARROW
    cell = 13 if heads > 12 else 17 if heads > 8 else 22
    height = 24 + 40 + max(4, heads) * cell
    untouched = [c for c, site in enumerate(sites) if pair_of(site, pair).untouched is not None]

    def paint(figure: Figure) -> None:
        axis = axes(figure, 44, 40, 52, 24)
        axis.imshow(
            ranks, cmap=KEPT_MAP, vmin=0, vmax=full, aspect="auto", interpolation="none", zorder=1
        )
        axis.set_title(f"{PAIR_TITLES[pair]}: kept rank, of {full}", color=INK)
        axis.set_xlabel("layer")
        axis.set_ylabel(head)
        ticks = whole_ticks(len(layers), 20 if wide else 12)
        axis.set_xticks(ticks, [str(layers[tick]) for tick in ticks])
        axis.set_yticks(whole_ticks(heads))
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.vlines(np.arange(0.5, len(layers) - 1), -0.5, heads - 0.5, PAPER, linewidths=0.8)
        axis.hlines(np.arange(0.5, heads - 1), -0.5, len(layers) - 0.5, PAPER, linewidths=0.8)
        for column in untouched:
            axis.add_patch(
                Rectangle(
                    (column - 0.5, -0.5),
                    1,
                    heads,
                    facecolor="#e9eaec",
                    edgecolor="#c9ccd0",
                    hatch="////",
                    linewidth=0,
                    zorder=2,
                )
            )
        if ranks.size <= _ANNOTATED_CELLS and len(layers) <= 16:
            for (row, column), value in np.ndenumerate(ranks):
                if np.isfinite(value) and column not in untouched:
                    colour = PAPER if value > 0.5 * full else INK
                    axis.text(
                        column,
                        row,
                        f"{value:.0f}",
                        ha="center",
                        va="center",
                        fontsize=9.5,
                        color=colour,
                    )
        colour_scale(figure, {0: "0", full / 2: f"{full / 2:g}", full: str(full)}, height, 40)

    title = f"{PAIR_TITLES[pair]} rank kept, {plain(scope)}"
    finite = ranks[np.isfinite(ranks)]
    lowest = np.unravel_index(int(np.nanargmin(ranks)), ranks.shape)
    alt = (
        f"Heat map of {len(layers)} layers by {heads} heads. Mean kept rank "
        f"{finite.mean():.1f} of {full}; lowest {finite.min():.0f} in layer "
        f"{layers[int(lowest[1])]}, {head} {lowest[0]}; "
        f"{percent(float(np.mean(finite == full)))} of heads keep everything."
    )
    name = identifier("rank", scope, pair)
    return Picture(
        name=name,
        title=title,
        caption=alt.split(". ", 1)[1],
        alt=alt,
        svg=draw(paint, width=width, height=height, name=name, title=title, alt=alt),
        wide=wide,
    )
