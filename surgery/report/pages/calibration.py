"""What the page shows of a calibrated run: what real input told before anything was cut."""

from __future__ import annotations

from typing import Any

from surgery.report.figures import price_curves, sensitivity_dots
from surgery.report.model.calibration import Calibration
from surgery.report.model.report import Report
from surgery.report.pages.page import Tile
from surgery.report.text.calibration import (
    PART_NAMES,
    SHARES_OF_MODEL,
    bound_text,
    data_text,
    error_name,
    error_text,
    held_out_figure,
    held_out_rows,
    layouts_of,
    leak_text,
    meaning_text,
    of_base,
    outcome_text,
    padding_text,
    parts_text,
    price_rows,
    ridge_text,
    step_text,
    value_title,
)
from surgery.report.text.damage import damage_text
from surgery.report.text.few_words import few_words
from surgery.report.wording import capitalised, percent


def calibration_tiles(report: Report) -> list[Tile]:
    """Return the error of this result as a headline figure, unless other data told more."""
    calibration = report.calibration
    if calibration is None or len(report.measurements) > 1:
        return []
    predicted, measured = calibration.predicted, calibration.measured
    value = predicted if measured is None else measured
    if calibration.held_out is not None:
        value = calibration.held_out.error.value
    if value is None:
        return []
    detail = error_name(calibration, unit=False)
    if calibration.held_out is not None:
        detail += f", on held-out rows of {calibration.data}"
        label = "Error on held-out rows"
    elif measured is not None:
        where = "the rows it was fitted to" if calibration.in_sample else "rows for trials"
        detail += f", measured on {where} of {calibration.data}"
        label = "Error in sample" if calibration.in_sample else "Error on rows for trials"
    else:
        label = "Predicted error"
    if predicted is not None and label != "Predicted error":
        detail += f"; {error_text(predicted, calibration)} predicted"
    return [
        *_figure_tiles(report, calibration),
        Tile(label, error_text(value, calibration), detail),
    ]


def _figure_tiles(report: Report, calibration: Calibration) -> list[Tile]:
    """Return the held-out perplexity or word error rate: what people know an error by."""
    price = calibration.held_out
    if price is None or not price.figure or price.before is None or price.after is None:
        return []
    before, after = (held_out_figure(price, each) for each in (price.before, price.after))
    told = damage_text(report)
    tone = "bad" if told is not None and told.tone == "bad" else ""
    value = f"{before.removesuffix(' %')} → {after}"
    rows = ", ".join(filter(None, [held_out_rows(calibration, price), few_words(price.words)]))
    return [Tile(capitalised(price.figure), value, rows, tone)]


def calibration_context(report: Report) -> dict[str, Any] | None:
    """Return pictures, facts and tables of what calibration told; ``None`` without any."""
    calibration = report.calibration
    if calibration is None:
        return None
    return {
        "intro": _intro(calibration),
        "leak": leak_text(calibration),
        "price_pictures": price_curves(report),
        "sensitivity_pictures": sensitivity_dots(report),
        "facts": _facts(report, calibration),
        "statistics": calibration.statistics,
        "tables": [table for table in _tables(report, calibration) if table[-1]],
        **search_context(report, calibration),
    }


def _tables(report: Report, calibration: Calibration) -> list[tuple[str, str, list[str], Any]]:
    """Return caption, head, columns and rows of each table of prices."""
    parts, found = calibration.parts, list[tuple[str, str, list[str], Any]]()
    if parts is not None:
        names = [PART_NAMES.get(part, part) for part in layouts_of(parts.prices)]
        rows = price_rows(parts.prices, SHARES_OF_MODEL)
        found.append((f"Expected {error_name(parts)}", "Of the model removed", names, rows))
    tried = any(price.measured is not None for price in calibration.prices)
    return [
        *found,
        (
            f"Predicted {error_name(calibration)}" + (", measured in brackets" if tried else ""),
            f"Removed{of_base(report) or (' of attention' if parts else '')}",
            list(layouts_of(calibration.prices)),
            price_rows(calibration.prices),
        ),
    ]


def search_context(report: Report, calibration: Calibration) -> dict[str, Any]:
    """Return the table of what a search tried, and what it had to keep."""
    return {
        "bound": bound_text(report, calibration),
        "removed_title": f"Removed{of_base(report)}",
        "value_title": capitalised(value_title(calibration)),
        "steps": [
            (percent(step.removed), step_text(step, report, calibration), step.accepted)
            for step in calibration.search
        ],
    }


def _intro(calibration: Calibration) -> str:
    text = (
        "Queries, keys and contexts of every head were watched on real input. What each component "
        "contributes there"
    )
    if not calibration.sensitivities:
        return f"{text}, as a share of what its head does, says what to cut first."
    text += ", times how much the model's output minds its layer, says what to cut "
    if any(price.measured is not None for price in calibration.prices):
        return text + "first and what it will cost; markers show whether that came true."
    return text + "first and what it will cost."


def _facts(report: Report, calibration: Calibration) -> list[tuple[str, str]]:
    outcome = outcome_text(calibration)
    facts = [
        ("Data", calibration.data),
        ("Counted", data_text(calibration)),
        ("Padding", padding_text(calibration)),
        ("Ridge", ridge_text(calibration)),
        ("Price", capitalised(error_name(calibration))),
        ("What that means", capitalised(meaning_text(report, calibration))),
    ]
    if calibration.parts is not None:
        facts.append(("A smaller model", capitalised(parts_text(calibration.parts))))
    if outcome:
        facts.append(("This cut" if report.output is not None else "The cut asked", outcome))
    return facts
