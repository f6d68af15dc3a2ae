"""Parameters before and after, in each denominator."""

from __future__ import annotations

from matplotlib.figure import Figure

from surgery.report.figures.canvas import (
    CUT,
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
from surgery.report.wording import change, count

_ROW = 58


def savings_bars(report: Report) -> list[Picture]:
    """Draw what remains of each denominator as a share of what it was."""
    savings = [saving for saving in report.savings if saving.before]
    if not savings:
        return []
    height = 34 + _ROW * len(savings) + 30

    def paint(figure: Figure) -> None:
        axis = axes(figure, 12, 34, 64, 8)
        axis.set_xlim(0, 1)
        axis.set_ylim(len(savings) - 0.15, -0.55)
        axis.set_yticks([])
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axis.xaxis.set_major_formatter(percent)
        axis.set_xlabel("of what it was")
        axis.spines["left"].set_visible(False)
        axis.grid(axis="x")
        for row, saving in enumerate(savings):
            stored = saving.stored / saving.before
            axis.barh(row, 1, 0.3, color="#eceef0", edgecolor=CUT, linewidth=0.8, hatch="////")
            axis.barh(row, stored, 0.3, color=PAIR_COLOURS["qk"])
            axis.text(0, row - 0.22, saving.title, va="bottom", color=INK)
            axis.text(
                1,
                row - 0.22,
                f"{count(saving.before)} → {count(saving.stored)}",
                va="bottom",
                ha="right",
                color=MUTED,
                fontsize=10,
            )
            axis.text(
                1.02,
                row,
                change(saving.before, saving.stored),
                va="center",
                color=INK,
                weight="bold",
            )

    title = "Parameters that remain"
    alt = " ".join(
        f"{saving.title}: {count(saving.before)} before, {count(saving.stored)} stored "
        f"({change(saving.before, saving.stored)})."
        for saving in savings
    )
    caption = "Each bar is what is stored now, as a share of the same denominator before."
    name = "savings"
    svg = draw(paint, width=NARROW, height=height, name=name, title=title, alt=alt)
    return [Picture(name, title, caption, alt, svg)]
