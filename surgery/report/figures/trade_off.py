"""What other cuts would save: removed fraction against threshold, and against energy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from surgery.report.figures.canvas import (
    INK,
    MUTED,
    NARROW,
    PAIR_COLOURS,
    PAIR_TITLES,
    PAPER,
    Picture,
    axes,
    draw,
    identifier,
    log_ticks,
    percent,
    plain,
    power,
)
from surgery.report.model.report import Report, SiteReport
from surgery.report.text.summary import PAIRS, pair_of, sites_by_scope

_POINTS = 160
_LEAST, _MOST = 1e-5, 0.5  # shares of a head's energy between which cuts usually lie
_NONE = 1e-14  # rounding of a share


def trade_off(report: Report) -> list[Picture]:
    """Draw, a scope each, the share of vectors a threshold or an energy budget removes."""
    pictures: list[Picture] = []
    for scope, sites in sites_by_scope(report).items():
        tables = ((pair, _scores(sites, pair)) for pair in PAIRS)
        scores = {pair: table for pair, table in tables if table is not None}
        if scores:
            marks = {pair: _mark(sites, pair) for pair in scores}
            if report.calibration is None:  # one budget cuts there, and no threshold
                pictures.append(_by_threshold(scope, scores, marks))
            pictures.append(_by_energy(scope, scores, marks))
    return pictures


def _scores(sites: list[SiteReport], pair: str) -> NDArray[np.float64] | None:
    """Return ``(heads, components)`` scores, rows padded with zeros; ``None`` without any."""
    heads = [head for site in sites for head in pair_of(site, pair).spectrum if head]
    if not heads:
        return None
    table = np.zeros((len(heads), max(len(head) for head in heads)))
    for row, head in zip(table, heads, strict=True):
        row[: len(head)] = head
    return np.nan_to_num(table, nan=0.0, posinf=0.0)


@dataclass(frozen=True)
class _Mark:
    """The cut that the report is about: its threshold if it had one, and what went of a pair.

    ``lost`` is the mean over heads of the share of each head's energy, which is what the axis of
    energies shows.
    """

    threshold: float | None
    removed: float
    lost: float


def _mark(sites: list[SiteReport], pair: str) -> _Mark:
    pairs = [pair_of(site, pair) for site in sites if any(pair_of(site, pair).spectrum)]
    threshold = next((one.threshold for one in pairs if one.threshold is not None), None)
    full = kept = 0
    shares = []
    for one in pairs:
        for head, rank in zip(one.spectrum, one.ranks, strict=False):
            energy = np.square(np.nan_to_num(np.asarray(head, float), posinf=0.0))
            full += len(head)
            kept += min(rank, len(head))
            if (total := float(energy.sum())) > 0:
                shares.append(float(energy[rank:].sum()) / total)
    removed = 1 - kept / full if full else 0.0
    return _Mark(threshold, removed, sum(shares) / len(shares) if shares else 0.0)


def removed_by_threshold(
    scores: NDArray[np.float64], thresholds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the share of components at or below each threshold."""
    ordered = np.sort(scores, axis=None)
    found: NDArray[np.float64] = np.searchsorted(ordered, thresholds, side="right") / ordered.size
    return found


def removed_by_energy(
    scores: NDArray[np.float64], lost: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the share of components each head can lose within a lost share of its energy.

    Args:
        scores: ``(heads, components)``, descending.
        lost: Lost shares of each head's squared scores, ascending.
    """
    tail = np.cumsum(np.square(scores)[:, ::-1], axis=1)
    total = np.maximum(tail[:, -1:], np.finfo(float).tiny)
    shares = np.sort((tail / total), axis=None)
    found: NDArray[np.float64] = np.searchsorted(shares, lost, side="right") / scores.size
    return found


_Marks = dict[str, _Mark]
_Dots = dict[str, tuple[float, float]]


def _by_threshold(scope: str, scores: dict[str, NDArray[np.float64]], marks: _Marks) -> Picture:
    positive = np.concatenate([value[value > 0] for value in scores.values()])
    high = float(positive.max()) if positive.size else 1.0
    low = max(float(np.quantile(positive, 0.001)), high * 1e-7) if positive.size else 1e-6
    grid = np.geomspace(low, high, _POINTS)
    curves = {pair: removed_by_threshold(value, grid) for pair, value in scores.items()}
    dots = {
        pair: (mark.threshold, mark.removed)
        for pair, mark in marks.items()
        if mark.threshold and low <= mark.threshold <= high and mark.removed
    }
    caption = "Share of each pair's vectors that an absolute threshold would remove"
    if dots:
        caption += "; a dot is this report's own cut"
    return _picture(
        identifier("threshold", scope),
        f"Removed by threshold, {plain(scope)}",
        "components with a score at or below",
        f"{caption}.",
        (grid, curves, dots),
    )


def _by_energy(scope: str, scores: dict[str, NDArray[np.float64]], marks: _Marks) -> Picture:
    # what went without any energy has no place on a logarithmic axis
    dots = {pair: (mark.lost, mark.removed) for pair, mark in marks.items() if mark.lost > _NONE}
    low, high = _wide_enough([x for x, _ in dots.values()])
    grid = np.geomspace(low, high, _POINTS)
    curves = {pair: removed_by_energy(value, grid) for pair, value in scores.items()}
    caption = "Share of each pair's vectors that goes when every head may lose this much energy"
    if dots:
        caption += (
            "; a dot is this report's own cut, at the mean of what its heads lose, and off its "
            "line where they lose unequal shares"
        )
    return _picture(
        identifier("energy", scope),
        f"Removed by lost energy, {plain(scope)}",
        "lost share of each head's squared scores",
        f"{caption}.",
        (grid, curves, dots),
    )


def _wide_enough(lost: list[float]) -> tuple[float, float]:
    """Return the range of energies drawn: the usual one, or more where a cut lies outside it."""
    low = min([_LEAST, *(value / 3 for value in lost)])
    return low, max([_MOST, *(min(1.0, 2 * value) for value in lost)])


def _picture(
    name: str,
    title: str,
    label: str,
    caption: str,
    data: tuple[
        NDArray[np.float64],
        dict[str, NDArray[np.float64]],
        _Dots,
    ],
) -> Picture:
    grid, curves, dots = data

    def paint(figure: Figure) -> None:
        axis = axes(figure, 50, 48, 46, 26)
        axis.set_xscale("log")
        axis.set_xlim(grid[0], grid[-1])
        axis.set_ylim(0, 1)
        axis.grid()
        axis.set_title(title, color=INK)
        axis.set_xlabel(label)
        ticks = log_ticks(float(grid[0]), float(grid[-1]))
        axis.set_xticks(ticks)
        axis.set_xticks([], minor=True)
        axis.xaxis.set_major_formatter(power)
        axis.set_yticks([0, 0.25, 0.5, 0.75, 1])
        axis.yaxis.set_major_formatter(percent)
        axis.tick_params(length=0)
        axis.tick_params(axis="x", pad=8)  # clear of the 0 % beside the corner
        for index, (pair, values) in enumerate(curves.items()):
            colour = PAIR_COLOURS[pair]
            axis.plot(grid, values, color=colour, linewidth=2, clip_on=False)
            axis.text(
                0.03,
                0.93 - 0.09 * index,
                PAIR_TITLES[pair],
                transform=axis.transAxes,
                color=colour,
                weight="bold",
                va="center",
            )
        for pair, (x, y) in dots.items():
            axis.plot(
                [x],
                [y],
                "o",
                color=PAIR_COLOURS[pair],
                markersize=8,
                markeredgecolor="white",
                zorder=5,
                clip_on=False,
            )
            # the highest dot has room above its curve, the others below theirs
            above = y == max(dot[1] for dot in dots.values())
            axis.annotate(
                percent(round(y, 3)),
                (x, y),
                xytext=(-7, 5) if above else (8, -5),
                textcoords="offset points",
                ha="right" if above else "left",
                va="bottom" if above else "top",
                color=MUTED,
                fontsize=10,
                bbox={"facecolor": PAPER, "alpha": 0.8, "linewidth": 0, "pad": 0.5},
            )

    said = []
    for pair, values in curves.items():
        for target in (0.25, 0.5):
            where = int(np.searchsorted(values, target))
            if where < len(grid):
                said.append(f"{PAIR_TITLES[pair]} {100 * target:g} % at {grid[where]:.2g}")
    alt = f"{caption} Reaches: {', '.join(said) or 'less than a quarter within the range'}."
    if dots:
        own = (f"{PAIR_TITLES[p]} {percent(round(y, 3))} at {x:.2g}" for p, (x, y) in dots.items())
        alt += f" Own cut: {', '.join(own)}."
    svg = draw(paint, width=NARROW, height=280, name=name, title=title, alt=alt)
    return Picture(name, title, caption, alt, svg)
