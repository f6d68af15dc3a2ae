"""What the screen shows of feed-forward blocks that lost neurons, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from surgery.report.model.report import Report
from surgery.report.text.budget import budget_rows, choices_text, price_unit
from surgery.report.text.calibration import bound_text, data_text, leak_text, meaning_text
from surgery.report.text.feed_forward import (
    lost_neurons,
    refit_text,
    ridge_told,
    worst_text,
)
from surgery.report.text.feed_forward_tables import columns, tower_rows
from surgery.report.text.layers import layer_rows
from surgery.report.wording import printable
from surgery_cli.render_calibration import SEARCH, search_table
from surgery_cli.tables import capped, grouped, quantities, remarks, savings, table, warned


def feed_forward_parts(report: Report) -> list[RenderableType]:
    """Return the tables of parameters, widths and bytes, and remarks."""
    parts = [savings(report), _towers(report), *_budget(report), *quantities(report.quantities)]
    if report.calibration is not None and report.calibration.search:
        parts.append(search_table(report, report.calibration))
    parts.append(remarks(_remarks(report)))
    leak = "" if report.calibration is None else leak_text(report.calibration)
    if leak:
        parts.append(warned(leak))
    return parts


def _towers(report: Report) -> RenderableType:
    """Show how wide blocks were and are, and how far their outputs are off."""
    return grouped("Feed-forward", "blocks", columns(report), tower_rows(report))


def _budget(report: Report) -> Iterator[RenderableType]:
    """Show in which order the budget was spent."""
    rows = budget_rows(report)
    if rows:
        shown = table("Budget, cheapest first", "gone by then", "price")
        for gone, price, what in rows:
            shown.add_row(Text(what), gone, price)
        yield capped(shown)


def _remarks(report: Report) -> Iterator[tuple[str, str]]:
    told = report.calibration
    for key, value in layer_rows(report):
        yield printable(f"Layers, {key}"), value
    if report.budget is not None:
        yield "Prices of the budget", price_unit(report)
    if compared := choices_text(report):
        yield "Layers compared", compared
    if refit := refit_text(report):
        yield "Errors", refit
    if worst := worst_text(report):
        yield "Worst block", worst
    if told is not None:
        if bound := bound_text(report, told):
            yield SEARCH, f"the largest cut with {bound}"
        yield "What the price means", meaning_text(report, told)
        ridge = f"; ridge: {ridge_told(told.ridge)}" if lost_neurons(report) else ""
        yield "Calibrated on", f"{told.data}: {data_text(told)}{ridge}"
    for note in report.notes:
        yield "Note", note
