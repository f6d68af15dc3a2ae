"""How far training moved each map, by role and layer: its weight, and its singular values."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from surgery.report.figures.by_layer import Dots, layers_of, paint_by_layer
from surgery.report.figures.canvas import (
    HAIRLINE,
    INK,
    MUTED,
    NARROW,
    PHONE,
    TRAINED,
    WIDE,
    Picture,
    change_tick,
    identifier,
    percent,
    plain,
)
from surgery.report.figures.panels import Panels, draw_panels, name_panel
from surgery.report.model.report import Report
from surgery.report.model.tuning import Moved
from surgery.report.text.roles import by_role, place_text
from surgery.report.text.tuning import change_text, values_text
from surgery.report.text.tuning_views import spread_of, value_changes

_ROW = 186  # height of a row of panels, the layers' numbers included
_TICKS = 42
_FEW_LAYERS = 16

_Scopes = dict[str, dict[str, Dots]]
"""Series by scope and role."""


def moved_maps(report: Report) -> list[Picture]:
    """Draw the change of every weight and of its singular values: a panel a role.

    A scope has a picture of each, one after the other; a method without singular values has
    only the first.
    """
    maps = [] if report.tuning is None else report.tuning.moved
    weights, values = _weight_changes(maps), _value_changes(maps)
    scopes = dict.fromkeys(scope for scope, _ in by_role(maps))
    return [made[scope] for scope in scopes for made in (weights, values) if scope in made]


def _weight_changes(every: Sequence[Moved]) -> dict[str, Picture]:
    """Draw the relative change of every weight, one picture a scope."""
    maps = [one for one in every if math.isfinite(one.change)]
    scopes: _Scopes = {}
    for (scope, role), some in by_role(maps).items():
        changes = [one.change for one in some]
        layers = [one.layer for one in some]
        scopes.setdefault(scope, {})[role] = Dots(
            role, TRAINED, layers, [0.0] * len(some), changes, changes
        )
    high = max((one.change for one in maps), default=0.0) * 1.12 or 1.0

    def told(scope: str) -> str:
        some = [one for one in maps if one.scope == scope]
        most = max(some, key=lambda one: one.change)
        mean = sum(one.change for one in some) / len(some)
        return (
            f"Norm of the difference relative to that of the weight. Mean {change_text(mean)}; "
            f"most: {plain(place_text(most))}, {change_text(most.change)}."
        )

    return {
        scope: _picture(
            identifier("changed", scope),
            f"Change of each weight, {plain(scope)}",
            told(scope),
            series,
            (0.0, high),
        )
        for scope, series in scopes.items()
    }


def _value_changes(maps: Sequence[Moved]) -> dict[str, Picture]:
    """Draw how singular values moved relative to themselves, one picture a scope with any."""
    scopes: _Scopes = {}
    told: dict[str, list[str]] = {}
    for (scope, role), some in by_role(maps).items():
        spreads = [(one.layer, spread_of(value_changes([one]))) for one in some]
        known = [(layer, spread) for layer, spread in spreads if spread is not None]
        if known:
            scopes.setdefault(scope, {})[role] = Dots(
                role,
                TRAINED,
                [layer for layer, _ in known],
                [spread.low for _, spread in known],
                [spread.middle for _, spread in known],
                [spread.high for _, spread in known],
            )
            told.setdefault(scope, []).append(f"{plain(role)} {values_text(some)}")
    every = [dots for series in scopes.values() for dots in series.values()]
    low = min((value for dots in every for value in dots.low), default=0.0)
    high = max((value for dots in every for value in dots.high), default=0.0)
    low, high = min(low, 0.0), max(high, 0.0)
    room = 0.08 * (high - low) or 0.01
    return {
        scope: _picture(
            identifier("values", scope),
            f"Change of singular values, {plain(scope)}",
            "Each against the value of the same rank before. Dot: the median of a map's values; "
            f"line: the middle 80 % of them. In all layers: {'; '.join(told[scope])}.",
            series,
            (low - room, high + room),
        )
        for scope, series in scopes.items()
    }


def _picture(
    name: str,
    title: str,
    caption: str,
    series: dict[str, Dots],
    limits: tuple[float, float],
) -> Picture:
    layers = layers_of(list(series.values()))
    wide = len(series) > 2 or len(layers) > _FEW_LAYERS
    signs = limits[0] < 0
    ticks = [tick for tick in MaxNLocator(5).tick_values(*limits) if limits[0] <= tick <= limits[1]]
    labels = [change_tick(tick) if signs else percent(tick) for tick in ticks]
    left = max(50, 14 + 7 * max(map(len, labels)))

    def paint(figure: Figure, panels: Panels) -> None:
        panel = panels.width / panels.per_row  # roughly
        size = 6.0 if panel / len(layers) > 9 else 4.2
        figure.text(4 / panels.width, 1 - 12 / panels.height, title, va="center", color=INK)
        for index, dots in enumerate(series.values()):
            axis = panels.axes(figure, index)
            axis.set_ylim(*limits)
            axis.set_yticks(ticks, labels if panels.is_first(index) else [""] * len(ticks))
            axis.spines[["left", "bottom"]].set_visible(False)
            paint_by_layer(axis, [dots], layers=layers, ticks=max(3, int(panel / 36)), size=size)
            axis.tick_params(axis="x", pad=8)  # clear of a 0 % in the corner
            axis.axhline(0, color=MUTED if signs else HAIRLINE, linewidth=1, zorder=1)
            name_panel(axis, dots.label)

    large, small = (
        Panels(len(series), width, row=_ROW, ticks=_TICKS, gap=20, most=most, left=left)
        for width, most in ((WIDE if wide else NARROW, 4), (PHONE, 2))
    )
    drawn = draw_panels(paint, large, small, name=name, title=title, alt=caption)
    return Picture(name, title, caption, caption, drawn[0], wide, drawn[1])
