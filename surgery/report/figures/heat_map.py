"""The scale of a heat map's colours, at the right edge of its picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from surgery.report.figures.canvas import HAIRLINE, KEPT_MAP, MUTED


def colour_scale(figure: Figure, labels: Mapping[float, str], height: int, right: int) -> None:
    """Draw the scale from its first label to its last, ``right`` points from the edge."""
    ticks = list(labels)
    width = figure.get_size_inches()[0] * 72
    tall = min(height - 64, 130)
    axis = figure.add_axes(
        ((width - right) / width, (height - 24 - tall) / height, 9 / width, tall / height)
    )
    axis.imshow(
        np.linspace(1, 0, 128)[:, None],
        cmap=KEPT_MAP,
        aspect="auto",
        extent=(0, 1, ticks[0], ticks[-1]),
        interpolation="bilinear",
    )
    axis.set_xticks([])
    axis.yaxis.tick_right()
    axis.set_yticks(ticks, list(labels.values()))
    axis.tick_params(length=0, labelcolor=MUTED, pad=3)
    axis.spines[:].set_visible(True)
    axis.spines[:].set_color(HAIRLINE)
