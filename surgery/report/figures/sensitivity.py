"""What a unit of dropped energy does to the model's output, layer by layer, pair by pair."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
from matplotlib.figure import Figure

from surgery.report.figures.by_layer import Dots, layers_of, legend_above, paint_by_layer
from surgery.report.figures.canvas import (
    INK,
    NARROW,
    PAIR_COLOURS,
    PAIR_TITLES,
    WIDE,
    Picture,
    axes,
    draw,
    identifier,
    log_axis,
    plain,
)
from surgery.report.model.calibration import Calibration, Sensitivity
from surgery.report.model.report import Report
from surgery.report.text.calibration import is_relative
from surgery.report.text.summary import PAIRS, sites_by_scope
from surgery.report.wording import scientific

_UNIT = 0.01  # of the pair's energy: small enough to be dropped in practice
_HEIGHT = 300


@dataclass(frozen=True)
class _Dot:
    """Damage per unit of energy of one layer: over all its trial cuts, least and most."""

    layer: int
    mean: float
    least: float
    most: float


_Series = dict[str, list[_Dot]]


def sensitivity_dots(report: Report) -> list[Picture]:
    """Draw damage per unit of dropped energy, one picture a scope, all on one scale."""
    calibration = report.calibration
    if calibration is None:
        return []
    told = {(one.path, one.pair): one for one in calibration.sensitivities}
    scopes: dict[str, _Series] = {}
    for scope, sites in sites_by_scope(report).items():
        series: _Series = {}
        for pair in PAIRS:
            trials = ((site.layer, told.get((site.path, pair))) for site in sites)
            dots = [_dot(layer, one) for layer, one in trials if one is not None]
            found = [dot for dot in dots if dot is not None]
            if found:
                series[pair] = found
        if series:
            scopes[scope] = series
    every = [dot for series in scopes.values() for dots in series.values() for dot in dots]
    if not every:
        return []
    high = max(dot.most for dot in every)
    low = max(min(dot.least for dot in every), high * 1e-6)
    limits = (low / 1.6, high * 1.6)
    return [_picture(scope, series, calibration, limits) for scope, series in scopes.items()]


def _dot(layer: int, one: Sensitivity) -> _Dot | None:
    """Return damage by energy of the trial cuts; ``None`` where no cut did measurable damage."""
    pairs = [
        (dropped, damage)
        for dropped, damage in zip(one.dropped, one.damage, strict=False)
        if isfinite(dropped) and isfinite(damage) and dropped > 0 and damage > 0
    ]
    if not pairs:
        return None
    slopes = [_UNIT * damage / dropped for dropped, damage in pairs]
    # in the geometric mean trial cuts of every size count alike
    return _Dot(layer, float(np.exp(np.mean(np.log(slopes)))), min(slopes), max(slopes))


def _painted(pair: str, dots: list[_Dot], low: float) -> Dots:
    return Dots(
        PAIR_TITLES[pair],
        PAIR_COLOURS[pair],
        [dot.layer for dot in dots],
        low=[max(dot.least, low) for dot in dots],
        middle=[max(dot.mean, low) for dot in dots],
        high=[dot.most for dot in dots],
    )


def _picture(
    scope: str, series: _Series, calibration: Calibration, limits: tuple[float, float]
) -> Picture:
    low, high = limits
    painted = [_painted(pair, dots, low) for pair, dots in series.items()]
    layers = layers_of(painted)
    wide = len(layers) > 40
    width = WIDE if wide else NARROW

    def paint(figure: Figure) -> None:
        axis = axes(figure, 50, 44, 12, 44)
        log_axis(axis, low, high)
        figure.text(
            4 / width, 1 - 16 / _HEIGHT, f"Damage per 1 % of energy, {plain(scope)}", color=INK
        )
        ticks = 20 if wide else 12
        paint_by_layer(axis, painted, layers=layers, ticks=ticks, size=6.5, markers="os")
        legend_above(axis, 1.01)

    unit = "squared relative error" if is_relative(calibration) else plain(calibration.unit)
    said = []
    for pair, dots in series.items():
        worst, best = max(dots, key=lambda dot: dot.mean), min(dots, key=lambda dot: dot.mean)
        some = f"{PAIR_TITLES[pair]}: {scientific(worst.mean)} in layer {worst.layer}"
        if best is not worst:
            some += f" down to {scientific(best.mean)} in layer {best.layer}"
        said.append(some)
    title = f"Sensitivity, {plain(scope)}"
    caption = (
        "What the output suffers for each 1 % of a pair's energy that is cut, "
        f"{unit}; line: from the least to the most of its trial cuts. {'; '.join(said)}."
    )
    name = identifier("sensitivity", scope)
    svg = draw(paint, width=width, height=_HEIGHT, name=name, title=title, alt=caption)
    return Picture(name, title, caption, caption, svg, wide)
