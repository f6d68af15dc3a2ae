"""Singular values of the small parts: a panel a role, a line a layer."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from surgery.report.figures.canvas import (
    DEPTH_MAP,
    INK,
    MUTED,
    PHONE,
    WIDE,
    Picture,
    identifier,
    log_axis,
    plain,
)
from surgery.report.figures.panels import Panels, draw_panels, name_panel
from surgery.report.model.report import LinearReport, Report
from surgery.report.text.linear_views import RoleGroup, groups_by_scope
from surgery.report.text.linear_words import words
from surgery.report.wording import scientific

_POINTS, _SMALL = 48, 12  # of a line, on a wide screen and a phone's: more would not be seen


def principal_spectra(report: Report) -> list[Picture]:
    """Draw the singular values of every small part, on one scale within a scope."""
    pictures: list[Picture] = []
    for scope, groups in groups_by_scope(report).items():
        drawn = [
            RoleGroup(group.scope, group.role, [one for one in group.linears if one.spectrum])
            for group in groups
        ]
        drawn = [group for group in drawn if group.linears]
        if drawn:
            pictures.append(_panels(scope, drawn, words(report.method).spectra))
    return pictures


def _panels(scope: str, groups: list[RoleGroup], kind: str) -> Picture:
    everything = [one for group in groups for one in group.linears]
    limits = _limits(everything)
    rank = max(len(one.spectrum) for one in everything)
    layers = [one.layer for one in everything if one.layer is not None] or [0]
    first, last = min(layers), max(layers)

    def paint(figure: Figure, panels: Panels) -> None:
        figure.text(
            panels.left / panels.width,
            1 - 12 / panels.height,
            f"Singular values of the {kind}, {plain(scope)}",
            va="center",
            color=INK,
        )
        _depth_scale(figure, first, last, panels)
        points = _POINTS if panels.width == WIDE else _SMALL
        for index, group in enumerate(groups):
            axis = panels.axes(figure, index)
            _panel(axis, group, (limits, rank), (first, last), panels.is_first(index), points)

    title = f"Spectra of the {kind}, {plain(scope)}"
    high, low = (max(one.spectrum[0] for one in everything), min(map(_last, everything)))
    caption = (
        "A panel a role, a line a layer; the same scales in every panel, both "
        f"logarithmic. Across: component, 1 to {rank}. Values run from {scientific(high)} to "
        f"{scientific(low)}."
    )
    name = identifier("principal", scope)
    drawn = draw_panels(
        paint,
        Panels(len(groups), WIDE),
        Panels(len(groups), PHONE, most=2, top=42),
        name=name,
        title=title,
        alt=caption,
    )
    return Picture(name, title, caption, caption, drawn[0], wide=True, small=drawn[1])


def _last(linear: LinearReport) -> float:
    return linear.spectrum[-1]


def _limits(linears: list[LinearReport]) -> tuple[float, float]:
    """Return the range drawn: six decades at most, and never nothing."""
    scores = np.concatenate([np.asarray(one.spectrum, float) for one in linears])
    scores = scores[np.isfinite(scores) & (scores > 0)]
    if not scores.size:
        return 1e-6, 1.0
    high = float(scores.max())
    return max(float(scores.min()), high * 1e-6) / 1.3, high * 1.3


def _panel(
    axis: Axes,
    group: RoleGroup,
    scale: tuple[tuple[float, float], int],
    depth: tuple[int, int],
    leftmost: bool,
    points: int,
) -> None:
    (low, high), rank = scale
    axis.set_xscale("log")
    axis.set_xlim(0.9, rank * 1.05)
    log_axis(axis, low, high, 4, labelled=leftmost)
    axis.set_xticks(_components(rank), [f"{tick}" for tick in _components(rank)])
    axis.set_xticks([], minor=True)
    axis.grid(axis="y")
    axis.tick_params(length=0)
    axis.spines["left"].set_visible(False)
    name_panel(axis, group.role)
    lines = [_line(one.spectrum, low, points) for one in group.linears]
    colours = [DEPTH_MAP(_depth(one.layer, depth)) for one in group.linears]
    axis.add_collection(LineCollection(lines, colors=colours, linewidths=1.2))


def _components(rank: int) -> list[int]:
    """Return the components that are labelled: 1, 4, 16 and so on, and the last."""
    powers = [4**exponent for exponent in range(12) if 4**exponent * 1.8 < rank]
    return [*powers, rank]


def _depth(layer: int | None, depth: tuple[int, int]) -> float:
    first, last = depth
    return 1.0 if layer is None or last == first else (layer - first) / (last - first)


def _line(spectrum: list[float], low: float, most: int) -> NDArray[np.float64]:
    """Return ``(points, 2)`` component numbers and values, thinned, NaN and zeros at the floor."""
    values = np.nan_to_num(np.asarray(spectrum, float), nan=0.0, posinf=0.0)
    chosen = np.unique(np.geomspace(1, len(values), most).round().astype(int)) - 1
    points: NDArray[np.float64] = np.column_stack([chosen + 1, np.maximum(values[chosen], low / 2)])
    return points


def _depth_scale(figure: Figure, first: int, last: int, panels: Panels) -> None:
    """Draw which shade is which layer, at the top right."""
    if first == last:
        return
    width, height, down = panels.width, panels.height, panels.top - 14
    axis = figure.add_axes(((width - 150) / width, 1 - (down + 4) / height, 90 / width, 8 / height))
    axis.imshow(np.linspace(0, 1, 64)[None, :], cmap=DEPTH_MAP, aspect="auto")
    axis.axis("off")
    for x, text, side in ((-6, f"layer {first}", "right"), (96, str(last), "left")):
        figure.text(
            (width - 150 + x) / width,
            1 - down / height,
            text,
            ha=side,
            va="center",
            color=MUTED,
            fontsize=10,
        )
