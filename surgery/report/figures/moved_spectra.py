"""Singular values before and after training, of the maps that moved most."""

from __future__ import annotations

from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from surgery.report.figures.canvas import (
    CUT,
    INK,
    MUTED,
    PHONE,
    TRAINED,
    WIDE,
    Picture,
    change_tick,
    log_axis,
    plain,
    whole_ticks,
)
from surgery.report.figures.panels import Panels, draw_panels, name_panel
from surgery.report.model.report import Report
from surgery.report.model.tuning import Moved
from surgery.report.text.roles import place_text
from surgery.report.text.tuning import change_text
from surgery.report.text.tuning_views import most_moved

_MOST = 4
_SHORT = 22  # letters of a panel's name, that two stand side by side on a phone
_POINTS = 160  # of a panel: more dots would cover each other
_SMALL = 48  # of a phone's
_ROW = 160
_FLOOR = 1e-6  # values below this share of the map's largest have no ratio
_DECADES = 1e-5  # values below this share of the largest are at the floor


def moved_spectra(report: Report) -> list[Picture]:
    """Draw the singular values of the most moved maps, each after over the same before."""
    chosen = [] if report.tuning is None else most_moved(report.tuning, _MOST)
    if not chosen:
        return []
    pairs = [_values(one) for one in chosen]
    limits = _limits(pairs)
    reach = _reach(pairs)
    title = "Singular values of the maps that moved most"

    def paint(figure: Figure, panels: Panels) -> None:
        per_row, most = panels.per_row, _POINTS if panels.width == WIDE else _SMALL
        figure.text(4 / panels.width, 1 - 12 / panels.height, title, va="center", color=INK)
        _legend(figure, panels)
        for index, (one, values) in enumerate(zip(chosen, pairs, strict=True)):
            cell = index + index // per_row * per_row  # a row of values, and below it their changes
            axis, labelled = panels.axes(figure, cell), panels.is_first(cell)
            _spectrum(axis, values, limits, most, labelled=labelled)
            name_panel(axis, place_text(one))
            below = panels.axes(figure, cell + per_row)
            _changes(below, values, reach, most, labelled=labelled)
            name_panel(below, "change", MUTED, weight="normal")

    named = "; ".join(f"{plain(place_text(one))}: {change_text(one.change)}" for one in chosen)
    caption = (
        "All heads of a map together, across in the order of their values before; a dot is the "
        "value of the same rank in the same head after, and below it its change in per cent. "
        f"Change of the whole weight: {named}."
    )
    name = "movedspectra"
    few = 2 if all(len(place_text(one)) <= _SHORT for one in chosen) else 1
    large, small = (
        Panels(2 * per_row * ceil(len(chosen) / per_row), width, row=_ROW, most=per_row, top=top)
        for width, per_row, top in ((WIDE, len(chosen), 26), (PHONE, min(few, len(chosen)), 42))
    )
    drawn = draw_panels(paint, large, small, name=name, title=title, alt=caption)
    return [Picture(name, title, caption, caption, drawn[0], wide=True, small=drawn[1])]


def _values(one: Moved) -> NDArray[np.float64]:
    """Return ``(2, values)``: before in descending order, and after in the same order."""
    length = min(len(one.before), len(one.after))
    table = np.array([one.before[:length], one.after[:length]], dtype=float)
    table = table[:, np.isfinite(table).all(axis=0)]
    ordered: NDArray[np.float64] = table[:, np.argsort(-table[0], kind="stable")]
    return ordered


def _limits(pairs: list[NDArray[np.float64]]) -> tuple[float, float]:
    every = np.concatenate([values.ravel() for values in pairs])
    every = every[every > 0]
    if not every.size:
        return 1e-6, 1.0
    high = float(every.max())
    return max(float(every.min()), high * _DECADES) / 1.4, high * 1.4


def _spectrum(
    axis: Axes,
    values: NDArray[np.float64],
    limits: tuple[float, float],
    most: int,
    *,
    labelled: bool,
) -> None:
    low, high = limits
    log_axis(axis, low, high, 5, labelled=labelled)
    _across(axis, values.shape[1])
    before, after = np.maximum(values, low)
    shown = _shown(values.shape[1], most)
    axis.plot(shown, before[shown], color=CUT, linewidth=2.4, zorder=3)
    axis.plot(shown, after[shown], "o", color=TRAINED, markersize=2.6, markeredgewidth=0, zorder=4)


def _changes(
    axis: Axes,
    values: NDArray[np.float64],
    limits: tuple[float, float],
    most: int,
    *,
    labelled: bool,
) -> None:
    """Draw the change of each value below it: a few per cent do not show on decades."""
    axis.set_ylim(*limits)
    axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.yaxis.set_major_formatter(lambda value, _: change_tick(value) if labelled else "")
    _across(axis, values.shape[1])
    axis.axhline(0, color=CUT, linewidth=1.4, zorder=2)
    shown = _shown(values.shape[1], most)
    inside = np.clip(relative(values)[shown], *limits)
    axis.plot(shown, inside, "o", color=TRAINED, markersize=2.6, markeredgewidth=0, zorder=4)


def relative(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``after / before - 1`` of each column; NaN where there was nothing before."""
    before, after = values
    there = np.where(before > _FLOOR * before.max(initial=0.0), before, np.nan)
    found: NDArray[np.float64] = after / there - 1
    return found


def _reach(pairs: list[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the changes drawn: zero, and all but the wildest at either end."""
    every = np.concatenate([relative(values) for values in pairs])
    every = every[np.isfinite(every)]
    low, high = np.quantile(every, (0.02, 0.98)) if every.size else (0.0, 0.0)
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    room = 0.12 * (high - low) or 0.01
    return low - room, high + room


def _across(axis: Axes, size: int) -> None:
    axis.set_xlim(-0.02 * size, max(size, 1) * 1.02)
    places = whole_ticks(size + 1, 5) if size < 4000 else [0, size // 2, size]
    axis.set_xticks(places, [f"{place:,}" for place in places])
    axis.grid(axis="y")
    axis.tick_params(length=0)
    axis.spines[["left", "bottom"]].set_visible(False)


def _shown(size: int, most: int) -> NDArray[np.int64]:
    """Return which of the values are drawn."""
    found: NDArray[np.int64] = np.unique(np.linspace(0, size - 1, min(size, most)).astype(int))
    return found


def _legend(figure: Figure, panels: Panels) -> None:
    width, y = panels.width, 1 - (panels.top - 14) / panels.height
    for x, text, colour in ((width - 72, "before", MUTED), (width - 12, "after", TRAINED)):
        mark = "—  " if text == "before" else "●  "
        figure.text(x / width, y, mark + text, ha="right", va="center", color=colour, fontsize=10)
