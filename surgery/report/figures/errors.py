"""Weight-space error of each pair, layer by layer."""

from __future__ import annotations

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
from surgery.report.model.report import PairReport, Report, SiteReport
from surgery.report.text.summary import PAIRS, is_pruned, pair_of, sites_by_scope
from surgery.report.wording import scientific

_TINY = 1e-17  # an error of exactly zero has no place on a logarithmic axis


def pair_errors(report: Report) -> list[Picture]:
    """Draw each layer's mean and range over heads of the relative error of the products."""
    pictures = []
    for scope, sites in sites_by_scope(report).items():
        series = {pair: _series(sites, pair) for pair in PAIRS}
        series = {pair: values for pair, values in series.items() if values}
        if series:
            pictures.append(_picture(scope, series, _axis_title(report), pruned=is_pruned(report)))
    return pictures


def errors_of(pair: PairReport) -> list[float]:
    """Return the error against the original: measured as written, else as predicted."""
    return pair.cast_error or pair.cut_error


_Series = dict[int, list[float]]


def _series(sites: list[SiteReport], pair: str) -> _Series:
    found = {site.layer: errors_of(pair_of(site, pair)) for site in sites}
    return {layer: errors for layer, errors in found.items() if errors}


def _axis_title(report: Report) -> str:
    if report.calibration is not None and report.output is None:
        return "Relative error on real input, predicted"
    if report.output is None:
        return "Relative error of the head products, predicted"
    return "Relative error of the head products, estimated"


def _dots(pair: str, one: _Series) -> Dots:
    """Return mean and range over heads of each layer."""
    return Dots(
        PAIR_TITLES[pair],
        PAIR_COLOURS[pair],
        list(one),
        low=[max(min(errors), _TINY) for errors in one.values()],
        middle=[max(float(np.mean(errors)), _TINY) for errors in one.values()],
        high=[max(*errors, _TINY) for errors in one.values()],
    )


def _picture(scope: str, series: dict[str, _Series], what: str, *, pruned: bool) -> Picture:
    everything = np.array([e for one in series.values() for errors in one.values() for e in errors])
    everything = everything[np.isfinite(everything)]
    top = float(everything.max()) if everything.size else 1.0
    linear = pruned and top > 1e-3
    dots = [_dots(pair, one) for pair, one in series.items()]
    layers = layers_of(dots)
    wide = len(layers) > 40

    def paint(figure: Figure) -> None:
        axis = axes(figure, 50, 44, 12, 26)
        if linear:
            axis.set_ylim(0, top * 1.12)
        else:
            low = max(float(everything.min()) if everything.size else _TINY, _TINY) / 3
            high = max(top, _TINY) * 3
            log_axis(axis, low, high)
        axis.set_title(what, color=INK)
        paint_by_layer(axis, dots, layers=layers, ticks=20 if wide else 12)
        legend_above(axis)

    title = f"Error of each pair, {plain(scope)}"
    parts = []
    for pair, one in series.items():
        worst = max(one, key=lambda layer: max(one[layer]))
        mean = float(np.mean([e for errors in one.values() for e in errors]))
        parts.append(
            f"{PAIR_TITLES[pair]}: mean {scientific(mean)}, worst "
            f"{scientific(max(one[worst]))} in layer {worst}"
        )
    caption = "Dot: mean over heads; line: best to worst head. " + "; ".join(parts) + "."
    name = identifier("errors", scope)
    svg = draw(
        paint, width=WIDE if wide else NARROW, height=250, name=name, title=title, alt=caption
    )
    return Picture(name, title, caption, caption, svg, wide)
