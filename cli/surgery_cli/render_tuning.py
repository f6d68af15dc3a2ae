"""What the screen shows of a tuning run: how it went, and how far the weights moved."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from surgery.report.model.report import Report
from surgery.report.model.tuning import Tuning
from surgery.report.text.roles import place_text, worst
from surgery.report.text.tuning import change_text, curve_rows, fact_rows, warning_text
from surgery.report.text.tuning_tables import moved_columns, moved_rows
from surgery.report.text.tuning_views import Curve
from surgery_cli.render_linears import parameters
from surgery_cli.tables import bars, capped, grouped, measured, remarks, table, warned

_STRIP = 20  # widest strip of a curve; more points share a character


def tuning_parts(report: Report, tuning: Tuning) -> list[RenderableType]:
    """Return the tables of measures, curves, parameters and roles, and lines about the run."""
    parts: list[RenderableType] = []
    if report.measurements:
        parts.append(measured(report, "Measured"))
    if curve_rows(tuning):
        parts.append(_curves(tuning))
    if report.trainable is not None:
        parts.append(parameters(report))
    if tuning.moved:
        parts.append(_moved(tuning))
    parts.append(remarks(_remarks(report, tuning)))
    warning = warning_text(tuning)
    if warning:
        parts.append(warned(warning))
    return parts


def _curves(tuning: Tuning) -> RenderableType:
    """Show where each figure began and ended, with a strip from the first step to the last."""
    shown = table("Training", "first to last", "first", "last", "lowest", "at step", left=2)
    shown.columns[1].no_wrap = True
    for curve, row in curve_rows(tuning):
        strip = Text(_strip(curve), style="blue")
        last = Text(row["last"], style="bold")
        shown.add_row(row["title"], strip, row["first"], last, row["lowest"], row["step"])
    return capped(shown)


def _strip(curve: Curve) -> str:
    """Draw a curve between its own least and most; on decades where it spans more than one."""
    values = curve.smooth
    if min(values) > 0 and max(values) > 10 * min(values):
        values = [math.log(value) for value in values]
    low, high = min(values), max(values)
    step = -(-len(values) // _STRIP)
    groups = (values[start : start + step] for start in range(0, len(values), step))
    means = (sum(group) / len(group) for group in groups)
    return bars((mean - low) / (high - low) if high > low else 0.5 for mean in means)


def _moved(tuning: Tuning) -> RenderableType:
    scopes = moved_rows(tuning.moved)
    rows = (
        {**row, "label": f"{scope} {row['label']}" if len(scopes) > 1 else row["label"]}
        for scope, rows in scopes
        for row in rows
    )
    return grouped("Moved", "maps", moved_columns(tuning.moved), rows)


def _remarks(report: Report, tuning: Tuning) -> Iterator[tuple[str, str]]:
    yield from fact_rows(tuning)
    found = worst(tuning.moved, "change")
    if found is not None:
        value, one = found
        yield "Most moved", f"{place_text(one)}: {change_text(value)} of its weight"
    for note in report.notes:
        yield "Note", note
    if report.output is not None:
        yield "To go on", "surgery merge folds what was trained into the weights"
