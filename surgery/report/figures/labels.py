"""Names at the ends of lines, pushed apart where lines end close together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

_APART = 13  # pixels between two labels at least


@dataclass(frozen=True)
class End:
    """Where a line ends, and what it is called there."""

    x: float
    y: float
    text: str
    colour: str


def name_ends(axis: Axes, ends: Sequence[End]) -> None:
    """Write the name of each line behind its end; the axes' limits must be set before."""
    low, high = axis.get_ylim()
    within = sorted((min(max(end.y, low), high), index) for index, end in enumerate(ends))
    heights = [float(axis.transData.transform((0, y))[1]) for y, _ in within]
    apart = heights[:1]
    for height in heights[1:]:
        apart.append(max(height, apart[-1] + _APART))
    shift = (sum(apart) - sum(heights)) / max(len(ends), 1)  # as much down as up
    for (y, index), height, wanted in zip(within, heights, apart, strict=True):
        end = ends[index]
        axis.annotate(
            end.text,
            (end.x, y),
            xytext=(7, wanted - shift - height),
            textcoords="offset pixels",
            va="center",
            color=end.colour,
            weight="bold",
            annotation_clip=False,
        )
