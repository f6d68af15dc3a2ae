"""The share of each weight's energy that its principal part holds: layers by roles."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from surgery.report.figures.canvas import (
    INK,
    KEPT_MAP,
    NARROW,
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
from surgery.report.model.report import LinearReport, Report
from surgery.report.text.linear_views import RoleGroup, groups_by_scope
from surgery.report.text.linears import share_text, span_text
from surgery.report.text.roles import known

_WIDE_LAYERS = 16
_ANNOTATED_LAYERS = 36


def captured_maps(report: Report) -> list[Picture]:
    """Draw the share of energy in the principal part, a cell a layer and role."""
    values = [value for value in known(report.linears, "captured") if math.isfinite(value)]
    if not values:
        return []
    # one scale for every picture, wide enough that small differences stay small
    low = min(math.floor(min(values) * 10) / 10, 0.8)
    high = max(math.ceil(max(values) * 10) / 10, low + 0.2)
    return [
        _map(scope, groups, low, min(high, 1.0))
        for scope, groups in groups_by_scope(report).items()
        if any(known(group.linears, "captured") for group in groups)
    ]


def _layers(groups: list[RoleGroup]) -> list[int | None]:
    found = {linear.layer for group in groups for linear in group.linears}
    return sorted(found, key=lambda layer: math.inf if layer is None else layer)


def _table(groups: list[RoleGroup], layers: list[int | None]) -> NDArray[np.float64]:
    """Return captured shares ``(roles, layers)``; NaN where there is none."""
    table = np.full((len(groups), len(layers)), np.nan)
    for r, group in enumerate(groups):
        for c, layer in enumerate(layers):
            cell = [linear for linear in group.linears if linear.layer == layer]
            shares = known(cell, "captured")
            if shares:
                table[r, c] = sum(shares) / len(shares)
    return table


def _map(scope: str, groups: list[RoleGroup], low: float, high: float) -> Picture:
    layers = _layers(groups)
    table = _table(groups, layers)
    wide = len(layers) > _WIDE_LAYERS
    width = WIDE if wide else NARROW
    height = 24 + 40 + max(len(groups), 3) * 26

    def paint(figure: Figure) -> None:
        axis = axes(figure, 60, 40, 58, 24)
        axis.imshow(table, cmap=KEPT_MAP, vmin=low, vmax=high, aspect="auto", interpolation="none")
        axis.set_title(f"Energy captured, {plain(scope)} (%)", color=INK)
        axis.set_xlabel("layer")
        ticks = whole_ticks(len(layers), 32 if wide else 16)
        labels = ("other" if layers[tick] is None else str(layers[tick]) for tick in ticks)
        axis.set_xticks(ticks, list(labels))
        axis.set_yticks(range(len(groups)), [plain(group.role) for group in groups])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.vlines(np.arange(0.5, len(layers) - 1), -0.5, len(groups) - 0.5, PAPER, linewidths=1)
        axis.hlines(np.arange(0.5, len(groups) - 1), -0.5, len(layers) - 0.5, PAPER, linewidths=1)
        if len(layers) <= _ANNOTATED_LAYERS:
            _annotate(axis, table, low + 0.58 * (high - low))
        colour_scale(figure, {one: f"{100 * one:.0f} %" for one in (low, high)}, height, 46)

    every = [linear for group in groups for linear in group.linears]
    shares = known(every, "captured")
    least = _least(every)
    title = f"Energy captured, {plain(scope)}"
    caption = (
        f"Mean {share_text(sum(shares) / len(shares))}, range {span_text(shares)}; least in "
        f"{plain(least.role)}" + ("." if least.layer is None else f" of layer {least.layer}.")
    )
    alt = f"Heat map of {len(groups)} roles by {len(layers)} layers. {caption}"
    name = identifier("captured", scope)
    svg = draw(paint, width=width, height=height, name=name, title=title, alt=alt)
    return Picture(name, title, caption, alt, svg, wide)


def _least(linears: list[LinearReport]) -> LinearReport:
    some = [linear for linear in linears if linear.captured is not None]
    return min(some, key=lambda linear: linear.captured or 0.0)


def _annotate(axis: Axes, table: NDArray[np.float64], dark: float) -> None:
    for (r, c), value in np.ndenumerate(table):
        if np.isfinite(value):
            axis.text(
                c,
                r,
                f"{100 * value if value > 0.9995 else min(100 * value, 99):.0f}",
                ha="center",
                va="center",
                fontsize=9.5,
                color=PAPER if value > dark else INK,
            )
