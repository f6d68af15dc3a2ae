"""Tables of linear maps with small trainable parts: the same rows on page, card and screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from surgery.report.model.report import LinearReport, Report
from surgery.report.text.linear_views import role_groups, trainable_of, weights_of
from surgery.report.text.linear_words import words
from surgery.report.text.linears import DASH, error_text, shortfall_text, span_text
from surgery.report.text.roles import known, worst
from surgery.report.wording import count, percent


@dataclass(frozen=True)
class Column:
    """One column: key of its cells, heading, what it means, and a shorter heading if any."""

    key: str
    title: str
    meaning: str
    short: str = ""


Row = dict[str, str]
"""The cells of one group of maps, or of one map, by column key; each already worded."""


def row(label: str, linears: Sequence[LinearReport]) -> Row:
    """Word the figures of some maps (at least one): ranges and worst cases."""

    def at_worst(name: str) -> float | None:
        found = worst(linears, name)
        return None if found is None else found[0]

    trainable, weights = trainable_of(linears), weights_of(linears)
    shapes = {f"{linear.out_features} × {linear.in_features}" for linear in linears}
    return {
        "label": label,
        "maps": str(len(linears)),
        "shape": shapes.pop() if len(shapes) == 1 else f"{len(shapes)} shapes",
        "trainable": count(trainable),
        "share": percent(trainable / weights) if weights else DASH,
        "captured": span_text(known(linears, "captured")),
        "shortfall": shortfall_text(at_worst("shortfall")),
        "defect": error_text(at_worst("defect")),
        "start": error_text(at_worst("start_error")),
    }


def role_rows(report: Report) -> list[Row]:
    """Word every role of every scope, one row each; a row of all where there are several."""
    groups = role_groups(report)
    several = len({group.scope for group in groups}) > 1
    rows = [
        row(f"{group.scope} {group.role}" if several else group.role, group.linears)
        for group in groups
    ]
    return [*rows, row("all", report.linears)] if len(rows) > 1 else rows


_COLUMNS = (
    Column("shape", "Shape", "rows × columns of each weight"),
    Column("trainable", "Trainable", "numbers in the small parts"),
    Column(
        "share", "Of the weight", "numbers in the small parts, relative to the weights", "of map"
    ),
    Column("captured", "Captured", "share of the weight's squared norm in the principal part"),
    Column(
        "shortfall",
        "Shortfall",
        "certified: at most this much below what the best part of this rank would capture",
    ),
    Column("defect", "Defect", "largest departure from orthonormality"),
    Column(
        "start",
        "Start error",
        "relative difference at the start, small part merged back",
        "start",
    ),
)


def columns(report: Report) -> list[Column]:
    """Return the columns of a table of maps; those of a split only where there was one."""
    split = words(report.method).splits or bool(known(report.linears, "captured"))
    return [one for one in _COLUMNS if split or one.key not in ("captured", "shortfall")]
