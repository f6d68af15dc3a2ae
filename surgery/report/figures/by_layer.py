"""Values layer by layer: a dot each with the range it stands for, series side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from surgery.report.figures.canvas import whole_ticks


@dataclass(frozen=True)
class Dots:
    """One series: a dot a layer, on a line from ``low`` to ``high``.

    Attributes:
        label: What the legend calls it.
        colour: Of dots and lines.
        layers: The layers it has values for; ``None`` outside the layers.
        low: Where each line begins, one a layer.
        middle: Where each dot is.
        high: Where each line ends.
    """

    label: str
    colour: str
    layers: Sequence[int | None]
    low: Sequence[float]
    middle: Sequence[float]
    high: Sequence[float]


def layers_of(series: Sequence[Dots]) -> list[int | None]:
    """Return every layer that occurs, ascending; what is outside the layers comes last."""
    found = {layer for dots in series for layer in dots.layers}
    return sorted(found, key=lambda layer: math.inf if layer is None else layer)


def paint_by_layer(
    axis: Axes,
    series: Sequence[Dots],
    *,
    layers: Sequence[int | None],
    ticks: int = 12,
    size: float = 6.0,
    markers: str = "o",
) -> None:
    """Paint dots and ranges, and label the layers below; the other axis is the caller's.

    Args:
        axis: Where to paint.
        series: Side by side within each layer.
        layers: The layers across, the same for pictures that are to be compared.
        ticks: Most layers that are labelled.
        size: Of the dots, in points.
        markers: Shapes of the dots, one series after the other.
    """
    axis.set_xlabel("layer")
    axis.grid(axis="y")
    axis.tick_params(length=0)
    axis.set_xlim(-0.6, len(layers) - 0.4)
    labelled = whole_ticks(len(layers), ticks)
    names = ("other" if layers[tick] is None else str(layers[tick]) for tick in labelled)
    axis.set_xticks(labelled, list(names))
    place = {layer: index for index, layer in enumerate(layers)}
    for index, dots in enumerate(series):
        shift = 0.16 * (2 * index - len(series) + 1)
        x = [place[layer] + shift for layer in dots.layers]
        ranges = zip(x, dots.low, dots.high, strict=True)
        ends = [end for at, low, high in ranges for end in ((at, low), (at, high), (at, math.nan))]
        style: dict[str, Any] = {"linewidth": 1.6, "alpha": 0.45, "solid_capstyle": "butt"}
        axis.plot(*zip(*ends, strict=True), color=dots.colour, **style)  # one path, not one a layer
        axis.plot(
            x,
            dots.middle,
            markers[index % len(markers)],
            color=dots.colour,
            markersize=size,
            label=dots.label,
            markeredgecolor="white",
            markeredgewidth=0.8,
            clip_on=False,  # a dot on the axis is a whole dot
        )


def legend_above(axis: Axes, height: float = 1.0) -> None:
    """Name the series at the top right; ``height`` is relative to the axes."""
    axis.legend(
        loc="lower right",
        bbox_to_anchor=(1, height),
        ncols=2,
        frameon=False,
        fontsize=10,
        handletextpad=0.2,
        columnspacing=1,
        borderaxespad=0,
    )
