"""Component spectra with the cut: every layer of a scope side by side, in rows.

One axes holds a row of layers, each shifted to its own place: that stays readable, and quick
to draw, from 4 layers to 80.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from surgery.report.figures.canvas import (
    CUT,
    INK,
    MUTED,
    NARROW,
    PAIR_COLOURS,
    PAIR_TITLES,
    PAPER,
    WIDE,
    Picture,
    axes,
    draw,
    identifier,
    log_axis,
    plain,
)
from surgery.report.model.report import PairReport, Report, SiteReport
from surgery.report.text.summary import PAIRS, pair_of, sites_by_scope
from surgery.report.wording import scientific

_SINGLE_LINES = 100  # more heads x layers than this: quantile bands instead of a line a head
_ROW_HEIGHT = 88
_GAP = 0.12  # of a layer's width


def spectra(report: Report) -> list[Picture]:
    """Draw component scores in descending order, kept ones coloured, cut ones grey."""
    pictures: list[Picture] = []
    for scope, sites in sites_by_scope(report).items():
        for pair in PAIRS:
            drawn = [site for site in sites if any(pair_of(site, pair).spectrum)]
            if drawn:
                pictures.append(_strip(scope, pair, drawn))
    return pictures


def _strip(scope: str, pair: str, sites: list[SiteReport]) -> Picture:
    pairs = [pair_of(site, pair) for site in sites]
    heads = sum(len(one.spectrum) for one in pairs)
    bands = heads > _SINGLE_LINES
    per_row = len(sites) if len(sites) <= 6 else 8 if len(sites) <= 32 else 16
    rows = math.ceil(len(sites) / per_row)
    wide = per_row > 8
    width = WIDE if wide else NARROW
    row_height = 150 if rows == 1 else _ROW_HEIGHT
    height = 20 + rows * row_height + 30
    low, high = _limits(pairs)
    threshold = next((one.threshold for one in pairs if one.threshold is not None), None)
    if threshold is not None and threshold > 0:
        low = min(low, threshold / 2) if threshold > low / 1e3 else low
    full = sum(one.full_rank * len(one.ranks) for one in pairs)
    kept = sum(sum(one.ranks) for one in pairs)
    components = max(len(head) for one in pairs for head in one.spectrum)

    def paint(figure: Figure) -> None:
        figure.text(
            46 / width,
            1 - 10 / height,
            f"{PAIR_TITLES[pair]}: component scores, a panel a layer",
            va="center",
            color=INK,
        )
        for row in range(rows):
            bottom = 30 + (rows - 1 - row) * row_height
            axis = axes(figure, 46, bottom, 8, height - bottom - row_height + 18)
            chunk = pairs[row * per_row : (row + 1) * per_row]
            labels = [site.layer for site in sites[row * per_row : (row + 1) * per_row]]
            _row(axis, chunk, labels, components, (low, high), pair, bands)
            if threshold is not None and low < threshold < high:
                axis.axhline(threshold, color=INK, linewidth=0.9, linestyle=(0, (3, 3)))
            axis.set_xlim(-0.03, per_row * (1 + _GAP) - _GAP + 0.03)
        _legend(figure, pair, bands, threshold, width, cut=kept < full)

    title = f"{PAIR_TITLES[pair]} spectra, {plain(scope)}"
    span = f"Scores run from {scientific(high)} to {scientific(low)}."
    shape = "Bands: middle 80 % of the heads; line: their median" if bands else "One line a head"
    caption = f"{shape}. Each panel is a layer, components in descending order, log scale."
    name = identifier("spectra", scope, pair)
    alt = f"{span} {kept:,} of {full:,} components are kept. {caption}"
    return Picture(
        name=name,
        title=title,
        caption=caption,
        alt=alt,
        svg=draw(paint, width=width, height=height, name=name, title=title, alt=alt),
        wide=wide,
    )


def _limits(pairs: list[PairReport]) -> tuple[float, float]:
    """Return the range drawn: all but the smallest half per cent, six decades at most."""
    scores = np.concatenate([np.asarray(head, float) for one in pairs for head in one.spectrum])
    scores = scores[np.isfinite(scores) & (scores > 0)]
    if not scores.size:
        return 1e-6, 1.0
    high = float(scores.max())
    low = max(float(np.quantile(scores, 0.005)), high * 1e-6)
    return low / 1.3, high * 1.3


def _row(
    axis: Axes,
    pairs: list[PairReport],
    layers: list[int],
    components: int,
    limits: tuple[float, float],
    pair: str,
    bands: bool,
) -> None:
    low, high = limits
    log_axis(axis, low, high, 4)
    axis.grid(axis="y")
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)
    axis.spines["left"].set_visible(False)
    axis.tick_params(length=0)
    colour = PAIR_COLOURS[pair]
    marks = _Marks()
    for place, (one, layer) in enumerate(zip(pairs, layers, strict=True)):
        start = place * (1 + _GAP)
        axis.text(
            start,
            1.03,
            str(layer),
            transform=axis.get_xaxis_transform(),
            color=MUTED,
            fontsize=9.5,
            va="bottom",
        )
        marks.panels.append([(start, low), (start + 1, low), (start + 1, high), (start, high)])
        width = max(len(head) for head in one.spectrum)
        x = start + (np.arange(width) + 0.5) / components
        scores = np.full((len(one.spectrum), width), np.nan)
        for index, head in enumerate(one.spectrum):
            scores[index, : len(head)] = head
        scores = np.where(np.isfinite(scores), np.maximum(scores, low / 2), np.nan)
        ranks = np.asarray(one.ranks[: len(scores)] or [width] * len(scores))
        kept = np.arange(width)[None, :] < ranks[:, None]
        if bands:
            marks.add_bands(x, scores, kept)
        else:
            marks.add_heads(x, scores, kept)
    axis.add_collection(PolyCollection(marks.panels, facecolors="#f7f8f9", zorder=0))
    for polygons, shade, alpha in ((marks.cut_bands, CUT, 0.5), (marks.kept_bands, colour, 0.28)):
        axis.add_collection(
            PolyCollection(polygons, facecolors=shade, alpha=alpha, linewidths=0, zorder=2)
        )
    grey = "#7d848c" if bands else CUT
    thick = 1.5 if bands else 1.1
    axis.add_collection(LineCollection(marks.cut_lines, colors=grey, linewidths=1, zorder=3))
    axis.add_collection(LineCollection(marks.kept_lines, colors=colour, linewidths=thick, zorder=4))


Points = Sequence[tuple[float, float]] | NDArray[np.float64]


@dataclass
class _Marks:
    """What a row is drawn from, gathered into few collections: hundreds would be slow."""

    panels: list[Points] = field(default_factory=list)
    kept_bands: list[Points] = field(default_factory=list)
    cut_bands: list[Points] = field(default_factory=list)
    kept_lines: list[Points] = field(default_factory=list)
    cut_lines: list[Points] = field(default_factory=list)

    def add_bands(
        self, x: NDArray[np.float64], scores: NDArray[np.float64], kept: NDArray[np.bool_]
    ) -> None:
        """Add the 10–90 % range of kept and of cut components, and the median of all heads."""
        for bands, member in ((self.kept_bands, kept), (self.cut_bands, ~kept)):
            chosen = np.where(member, scores, np.nan)
            present = np.isfinite(chosen).any(axis=0)
            if present.any():
                lower, upper = (quantile(chosen[:, present], q) for q in (0.1, 0.9))
                there = np.column_stack([x[present], lower])
                back = np.column_stack([x[present], upper])[::-1]
                bands.append(np.concatenate([there, back]))
        middle = np.column_stack([x, quantile(scores, 0.5)])
        self._add_line(middle, int((kept.mean(axis=0) >= 0.5).sum()))

    def add_heads(
        self, x: NDArray[np.float64], scores: NDArray[np.float64], kept: NDArray[np.bool_]
    ) -> None:
        """Add one line a head."""
        for head, keep in zip(scores, kept, strict=True):
            points = np.column_stack([x, head])[np.isfinite(head)]
            self._add_line(points, int(keep.sum()))

    def _add_line(self, points: NDArray[np.float64], rank: int) -> None:
        self.kept_lines.append(points[:rank])
        # begins at the last kept component, so that the line does not break
        self.cut_lines.append(points[max(rank - 1, 0) :])


def quantile(table: NDArray[np.float64], q: float) -> NDArray[np.float64]:
    """Return each column's ``q``-quantile over entries that are not NaN (at least one).

    The same as ``np.nanquantile(table, q, axis=0)``, a hundred times faster.
    """
    ordered = np.sort(table, axis=0)  # NaN last
    position = q * (np.isfinite(table).sum(axis=0) - 1)
    lower = np.floor(position).astype(int)
    upper = np.ceil(position).astype(int)
    columns = np.arange(table.shape[1])
    below, above = ordered[lower, columns], ordered[upper, columns]
    found: NDArray[np.float64] = below + (position - lower) * (above - below)
    return found


def _legend(
    figure: Figure, pair: str, bands: bool, threshold: float | None, width: int, *, cut: bool
) -> None:
    axis = figure.add_axes((0, 0, 1, 24 / (figure.get_size_inches()[1] * 72)))
    axis.set_xlim(0, width)
    axis.set_ylim(0, 24)
    axis.axis("off")
    axis.patch.set_facecolor(PAPER)
    entries = [("kept", PAIR_COLOURS[pair], "-"), *([("cut", CUT, "-")] if cut else [])]
    if threshold is not None:
        entries.append((f"threshold {threshold:.3g}", INK, ":"))
    left = 46.0
    for label, colour, style in entries:
        axis.plot(
            [left, left + 20],
            [12, 12],
            color=colour,
            linestyle=style,
            linewidth=4 if bands and style == "-" else 1.6,
            solid_capstyle="butt",
        )
        axis.text(left + 26, 12, label, va="center", color=MUTED, fontsize=10)
        left += 40 + 7 * len(label)
