"""What every budget costs under each layout, or of each kind of parts: error against share."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surgery.report.figures.canvas import (
    INK,
    LAYOUT_COLOURS,
    MUTED,
    NARROW,
    PAPER,
    PART_COLOURS,
    Picture,
    axes,
    draw,
    log_axis,
    percent,
    plain,
)
from surgery.report.figures.labels import End, name_ends
from surgery.report.model.calibration import Calibration, PartPrices, Price
from surgery.report.model.report import Report
from surgery.report.text.calibration import (
    PART_NAMES,
    error_name,
    error_text,
    is_relative,
    layouts_of,
)
from surgery.report.text.summary import budget_name, budget_saving
from surgery.report.wording import capitalised, printable, scientific

_HEIGHT = 300
_LINES = ("-", (0, (6, 2)), (0, (2, 1.6)), (0, (7, 2, 2, 2)))  # told apart in print, too
_MARKERS = ("o", "s", "^", "D")
_DOTS = 6  # points that are all seen: a line of one would not be
_FREE = 0.14  # of the largest budget: what is below may leave the picture at its lower edge

_Curves = dict[str, list[Price]]
_Own = tuple[float, float | None]


def price_curves(report: Report) -> list[Picture]:
    """Draw a line for attention, a block of neurons, a layer, all; and one for every layout.

    On the lines of layouts stands what was measured, and this run's own budget.
    """
    told = report.calibration
    if told is None:
        return []
    found, layouts = list[Picture](), _curves(told.prices)
    if told.parts is not None and (parts := _curves(told.parts.prices)):
        of, heading = "the model's parameters", "The price of a smaller model"
        found.append(_picture(told.parts, parts, of, None, "parts", heading))
    if layouts:
        of, own = f"the {budget_name(report)} parameters in scope", _own(report, told)
        found.append(_picture(told, layouts, of, own, "price", "The price of a cut"))
    return found


def _curves(prices: Sequence[Price]) -> _Curves:
    """Return what can be drawn of each line."""
    curves = {
        name: [one for one in points if _drawable(one.predicted) and one.removed > 0]
        for name, points in layouts_of(prices).items()
    }
    return {name: points for name, points in curves.items() if points}


def _drawable(value: float | None) -> bool:
    """Whether a value has a place on a logarithmic axis."""
    return value is not None and isfinite(value) and value > 0


def _own(report: Report, calibration: Calibration) -> _Own | None:
    """Return the budget of this run and its error, measured if it was; ``None`` without a cut."""
    saving = budget_saving(report)
    if saving is None or saving.removed <= 0:
        return None
    for value in (calibration.measured, calibration.predicted):
        if value is not None and _drawable(value):
            return saving.removed, value
    return saving.removed, None


def _picture(
    calibration: Calibration | PartPrices,
    curves: _Curves,
    of: str,
    own: _Own | None,
    name: str,
    heading: str,
) -> Picture:
    every = [one for points in curves.values() for one in points]
    right = max([one.removed for one in every] + ([] if own is None else [own[0]]))
    low, high = _limits(every, own)
    title = printable(capitalised(error_name(calibration)))

    def paint(figure: Figure) -> None:
        axis = axes(figure, 46, 44, 6 + 7 * max(map(len, map(_label, curves))), 44)
        log_axis(axis, low, high)
        axis.set_xlim(0, right * 1.02)
        axis.xaxis.set_major_formatter(percent)
        axis.set_xlabel(f"of {of} removed")
        axis.grid()
        axis.tick_params(length=0)
        figure.text(4 / NARROW, 1 - 16 / _HEIGHT, plain(title), color=INK)
        for index, (layout, points) in enumerate(curves.items()):
            _curve(axis, layout, points, index)
        ends = [
            End(points[-1].removed, points[-1].predicted, _label(layout), _style(layout, index))
            for index, (layout, points) in enumerate(curves.items())
        ]
        name_ends(axis, ends)
        if own is not None:
            _mark_own(axis, *own)

    caption = "Line: predicted"
    if any(one.measured is not None for one in every):
        caption += "; marker: measured on the calibration data with the cut in place"
    if own is not None:
        mark = "dashed" if own[1] is None else "ring"
        caption += f"; {mark}: this cut"
    said = [
        f"{plain(layout)}: "
        + ", ".join(
            f"{percent(round(one.removed, 3))} at {scientific(one.predicted)}"
            + ("" if one.measured is None else f" (measured {scientific(one.measured)})")
            for one in _few(points)
        )
        for layout, points in curves.items()
    ]
    alt = f"{title} against the share of {of} removed. {'; '.join(said)}."
    if own is not None:
        alt += f" This cut: {percent(round(own[0], 3))}"
        alt += "." if own[1] is None else f" at {printable(error_text(own[1], calibration))}."
    unit = "Relative error" if is_relative(calibration) else f"In {plain(calibration.unit)}"
    svg = draw(paint, width=NARROW, height=_HEIGHT, name=name, title=heading, alt=alt)
    return Picture(name, heading, f"{caption}. {unit}, log scale.", alt, svg)


def _label(name: str) -> str:
    return plain(PART_NAMES.get(name, name))[:12]


def _limits(every: list[Price], own: _Own | None) -> tuple[float, float]:
    """Return the range of errors drawn: what nearly nothing costs would take half the height."""
    most = max(one.removed for one in every)
    worth = [one for one in every if one.removed >= _FREE * most]
    errors = [one.predicted for one in worth]
    errors += [one.measured for one in worth if one.measured and _drawable(one.measured)]
    if own is not None and own[1] is not None:
        errors.append(own[1])
    return min(errors) / 1.4, max(errors) * 1.25


def _few(points: list[Price], most: int = 6) -> list[Price]:
    """Return the measured points, or some of them all: a text with sixty figures is not read."""
    chosen = [one for one in points if one.measured is not None] or points
    step = -(-len(chosen) // most)
    return chosen[::step]


def _style(layout: str, index: int) -> str:
    colours = PART_COLOURS | LAYOUT_COLOURS
    return colours.get(layout, list(LAYOUT_COLOURS.values())[index % len(LAYOUT_COLOURS)])


def _curve(axis: Axes, layout: str, points: list[Price], index: int) -> None:
    colour, kind = _style(layout, index), index % len(_MARKERS)
    axis.plot(
        [one.removed for one in points],
        [one.predicted for one in points],
        color=colour,
        linewidth=2,
        linestyle=_LINES[kind],
        marker="." if len(points) <= _DOTS else "",
        zorder=3,
    )
    low, _ = axis.get_ylim()
    measured = [one for one in points if _drawable(one.measured) and (one.measured or 0.0) >= low]
    axis.plot(
        [one.removed for one in measured],
        [one.measured or 0.0 for one in measured],
        _MARKERS[kind],
        color=colour,
        markersize=7.5,
        markeredgecolor=PAPER,
        zorder=5,
        clip_on=False,
    )


def _mark_own(axis: Axes, removed: float, error: float | None) -> None:
    axis.axvline(removed, color=INK, linewidth=0.9, linestyle=(0, (3, 3)), zorder=2)
    axis.annotate(
        f"this cut: {percent(round(removed, 3))}",
        (removed, 1),
        xycoords=axis.get_xaxis_transform(),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color=MUTED,
        fontsize=10,
        annotation_clip=False,
    )
    if error is not None:
        axis.plot(
            [removed],
            [error],
            "o",
            markersize=13,
            markerfacecolor="none",
            markeredgecolor=INK,
            markeredgewidth=1.4,
            zorder=6,
            clip_on=False,
        )
