"""What the screen shows of a calibrated run: the price of budgets, and what a search tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from surgery.report.model.calibration import Calibration, Price
from surgery.report.model.report import Report
from surgery.report.text.calibration import (
    PART_NAMES,
    SHARES,
    SHARES_OF_MODEL,
    bound_text,
    data_text,
    error_name,
    layouts_of,
    leak_text,
    meaning_text,
    of_base,
    outcome_text,
    parts_text,
    price_rows,
    step_text,
    value_title,
)
from surgery.report.text.summary import PAIR_NAMES, pair_in_scope
from surgery.report.wording import percent, printable
from surgery_cli.tables import capped, remarks, table, warned

SEARCH = "Search"


def calibration_parts(report: Report) -> list[RenderableType]:
    """Return the price table, the search and the lines about both; nothing uncalibrated."""
    calibration = report.calibration
    if calibration is None:
        return []
    parts: list[RenderableType] = []
    if calibration.parts is not None:
        parts.append(_prices("Price, of the model", calibration.parts.prices, SHARES_OF_MODEL))
    if price_rows(calibration.prices):
        pair = pair_in_scope(report)
        of = "" if pair is None else f" {PAIR_NAMES[pair]}"
        of = " attention" if calibration.parts and not of else of
        parts.append(_prices(f"Price of removing{of}", calibration.prices))
    if calibration.search:
        parts.append(search_table(report, calibration))
    parts.append(remarks(_remarks(report, calibration)))
    leak = leak_text(calibration)
    if leak:
        parts.append(warned(leak))
    return parts


def _prices(
    title: str, prices: Sequence[Price], shares: Sequence[float] = SHARES
) -> RenderableType:
    """Show the predicted error of some budgets under each layout, measured in brackets."""
    names = (printable(PART_NAMES.get(name, name))[:12] for name in layouts_of(prices))
    shown = table(title, *names)
    for row in price_rows(prices, shares):
        cells = []
        for cell in row.cells:
            text = Text("—" if cell is None else cell[0])
            if cell is not None and cell[1] is not None:
                text.append(f" ({cell[1]})", style="dim")
            cells.append(text)
        shown.add_row(row.removed, *cells)
    return capped(shown)


def search_table(report: Report, calibration: Calibration) -> RenderableType:
    """Show the budgets that a search tried, in its order."""
    title = f"Search: removed{of_base(report)}"
    shown = table(title, value_title(calibration), "within the bound")
    for step in calibration.search:
        kept = Text("yes", style="green") if step.accepted else Text("no", style="red")
        shown.add_row(percent(step.removed), printable(step_text(step, report, calibration)), kept)
    return capped(shown)


def _remarks(report: Report, calibration: Calibration) -> Iterator[tuple[str, str]]:
    if calibration.prices:
        brackets = any(price.measured is not None for price in calibration.prices)
        name = error_name(calibration)
        told = f"predicted {name}" + (", measured in brackets" if brackets else "")
        yield "Price", told
    if calibration.parts is not None:
        yield "Of the model", parts_text(calibration.parts)
    outcome = outcome_text(calibration)
    if outcome:
        yield "This cut" if report.output is not None else "The cut asked", outcome
    if calibration.prices or outcome:
        yield "What that means", meaning_text(report, calibration)
    if bound := bound_text(report, calibration):
        yield SEARCH, f"the largest cut with {bound}"
    yield "Calibrated on", f"{calibration.data}: {data_text(calibration)}"
