"""What a vocabulary of another size would save, and how much of the text it would cover."""

from __future__ import annotations

from matplotlib.figure import Figure

from surgery.report.figures.canvas import (
    INK,
    MUTED,
    NARROW,
    PAIR_COLOURS,
    Picture,
    axes,
    draw,
    percent,
)
from surgery.report.model.report import Report
from surgery.report.wording import percent as worded

_HEIGHT = 300


def coverage_curve(report: Report) -> list[Picture]:
    """Draw the share of uses that is not covered against the share of the model that leaves."""
    told = report.vocabulary
    if told is None or len(told.curve) < 2:
        return []
    removed = [one.removed for one in told.curve]
    missed = [1 - one.covered for one in told.curve]
    model = next(one for one in report.savings if one.name == "model")
    now = min(told.curve, key=lambda one: abs(one.kept - told.kept))

    def paint(figure: Figure) -> None:
        axis = axes(figure, 52, 46, 20, 16)
        axis.plot(removed, missed, color=PAIR_COLOURS["qk"], linewidth=2.2)
        axis.plot([model.removed], [1 - now.covered], "o", color=INK, markersize=7, zorder=5)
        axis.axvline(model.removed, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_formatter(percent)
        axis.yaxis.set_major_formatter(percent)
        axis.set_xlabel("of the model that leaves")
        axis.grid()

    title = "Uses of tokens that would be spelled by shorter ones"
    caption = (
        "Keeping only the most used tokens: how much of the model leaves, and which share of the "
        "uses falls on tokens that left. The dot is this run."
    )
    alt = (
        f"At {worded(model.removed)} of the model {worded(max(0.0, 1 - now.covered))} of uses are "
        f"not covered; at {worded(removed[0])}, {worded(missed[0])}."
    )
    name = "coverage"
    svg = draw(paint, width=NARROW, height=_HEIGHT, name=name, title=title, alt=alt)
    return [Picture(name, title, caption, alt, svg)]
