"""Small panels in rows, each with room for its own title and ticks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surgery.report.figures.canvas import INK, axes, draw, plain

_RIGHT, _BOTTOM = 12, 10
_TITLE = 18  # above each panel


def name_panel(axis: Axes, text: str, colour: str = INK, weight: str = "bold") -> None:
    """Write a panel's name above its left corner, clear of a tick that stands there."""
    axis.annotate(
        plain(text),
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 7),
        textcoords="offset pixels",
        color=colour,
        weight=weight,
        annotation_clip=False,
    )


@dataclass(frozen=True)
class Panels:
    """A grid of panels; lengths in pixels.

    Attributes:
        count: How many there are.
        width: Of the picture.
        row: Height of one row, its panels' titles and ticks included.
        ticks: Room below each panel for them.
        gap: Between two panels of a row.
        most: Panels in a row at most.
        left: Where the first panel begins.
        top: Room for the picture's title.
    """

    count: int
    width: int
    row: int = 170
    ticks: int = 22
    gap: int = 26
    most: int = 4
    left: int = 50
    top: int = 26

    @property
    def per_row(self) -> int:
        """Panels in one row: rows are about as long as each other."""
        if self.count <= self.most:
            return max(self.count, 1)
        return min(math.ceil(self.count / 2), self.most)

    @property
    def height(self) -> int:
        """Height of the picture."""
        return self.top + math.ceil(self.count / self.per_row) * self.row + _BOTTOM

    def is_first(self, index: int) -> bool:
        """Whether a panel is the first of its row."""
        return index % self.per_row == 0

    def axes(self, figure: Figure, index: int) -> Axes:
        """Add the axes of one panel."""
        line, column = divmod(index, self.per_row)
        panel = (self.width - self.left - _RIGHT - (self.per_row - 1) * self.gap) / self.per_row
        left = self.left + column * (panel + self.gap)
        top = self.top + line * self.row
        bottom = self.height - top - self.row + self.ticks
        return axes(figure, left, bottom, self.width - left - panel, top + _TITLE)


def draw_panels(
    paint: Callable[[Figure, Panels], None],
    wide: Panels,
    small: Panels,
    *,
    name: str,
    title: str,
    alt: str,
) -> tuple[str, str]:
    """Paint the same panels twice: for a wide screen and for a phone's."""

    def drawn(panels: Panels, called: str) -> str:
        return draw(
            lambda figure: paint(figure, panels),
            width=panels.width,
            height=panels.height,
            name=called,
            title=title,
            alt=alt,
        )

    return drawn(wide, name), drawn(small, f"{name}-small")
