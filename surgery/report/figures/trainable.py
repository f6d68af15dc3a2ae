"""How many numbers each role trains, and how many that is beside its weights."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surgery.report.figures.canvas import (
    INK,
    MUTED,
    NARROW,
    TRAINED,
    Picture,
    axes,
    draw,
    plain,
)
from surgery.report.model.report import Report
from surgery.report.text.linear_views import RoleGroup, groups_by_scope, trainable_of, weights_of
from surgery.report.wording import count, percent

_ROW = 22
_SCOPE = 26  # a scope's name above its bars


def trainable_bars(report: Report) -> list[Picture]:
    """Draw how the trainable numbers fall to the roles, and their size beside the weights."""
    scopes = groups_by_scope(report)
    groups = [group for members in scopes.values() for group in members]
    most = max((trainable_of(group.linears) for group in groups), default=0)
    if not most:
        return []
    named = len(scopes) > 1
    height = 24 + _ROW * len(groups) + _SCOPE * len(scopes) * named + 6

    def paint(figure: Figure) -> None:
        axis = axes(figure, 60, 4, 118, 24)
        axis.set_xlim(0, most)
        axis.set_ylim(height - 28, 0)
        axis.axis("off")
        figure.text(8 / NARROW, 1 - 12 / height, "Trainable numbers", color=INK, va="center")
        figure.text(
            1 - 4 / NARROW,
            1 - 12 / height,
            "of the weights",
            color=MUTED,
            fontsize=10,
            ha="right",
            va="center",
        )
        y = 0.0
        for scope, members in scopes.items():
            if named:
                _label(axis, 8 - 60, y + _SCOPE - 9, plain(scope), MUTED)
                y += _SCOPE
            for group in members:
                _bar(axis, group, y + _ROW / 2)
                y += _ROW

    title = "Where the trainable numbers are"
    total, weights = trainable_of(report.linears), weights_of(report.linears)
    caption = (
        f"{count(total)} numbers beside {count(weights)} weights"
        + (f", {percent(total / weights)}" if weights else "")
        + "; bold: relative to the weights of that role."
    )
    alt = (
        caption
        + " "
        + "; ".join(
            f"{plain(group.scope)} {plain(group.role)}: {count(trainable_of(group.linears))}"
            for group in groups
        )
    )
    name = "trainable"
    svg = draw(paint, width=NARROW, height=int(height), name=name, title=title, alt=alt)
    return [Picture(name, title, caption, alt, svg)]


def _label(axis: Axes, x: float, y: float, text: str, colour: str) -> None:
    axis.annotate(
        text,
        (0, y),
        xytext=(x, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        fontsize=10,
    )


def _bar(axis: Axes, group: RoleGroup, y: float) -> None:
    trainable, weights = trainable_of(group.linears), weights_of(group.linears)
    axis.barh(y, trainable, 12, color=TRAINED)
    axis.annotate(
        plain(group.role),
        (0, y),
        xytext=(-8, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        color=INK,
    )
    axis.annotate(
        count(trainable),
        (trainable, y),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=MUTED,
        fontsize=10,
    )
    axis.annotate(
        percent(trainable / weights) if weights else "",
        (1, y),
        xycoords=axis.get_yaxis_transform(),
        xytext=(114, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        color=INK,
        weight="bold",
    )
