"""What the page of a report about narrower feed-forward blocks shows."""

from __future__ import annotations

import json
from typing import Any

from surgery.architectures import ARCHITECTURES
from surgery.architectures.base import CAUSAL
from surgery.report.figures import model_column
from surgery.report.model.calibration import Calibration
from surgery.report.model.report import Report
from surgery.report.pages.calibration import calibration_tiles, search_context
from surgery.report.pages.page import Tile, View, measured_tiles, saving_tiles
from surgery.report.text.budget import budget_rows, choices_text, price_unit
from surgery.report.text.calibration import (
    data_text,
    error_name,
    leak_text,
    meaning_text,
    padding_text,
)
from surgery.report.text.damage import is_priced
from surgery.report.text.feed_forward import (
    final_text,
    form_text,
    is_known,
    is_ragged,
    is_refitted,
    lost_neurons,
    refit_text,
    ridge_told,
    was_cut,
    worst_text,
)
from surgery.report.text.feed_forward_tables import block_rows, columns, row, tower_rows
from surgery.report.text.layers import layer_rows
from surgery.report.text.quantity_tables import quantity_tables
from surgery.report.wording import capitalised


def feed_forward_view(report: Report) -> View:
    """Return tiles, the picture, and tables of widths, savings and errors."""
    told, family = report.calibration, ARCHITECTURES.get(report.source.model_type)
    return View(
        template="feed_forward.html.j2",
        kicker=f"{report.method}: {_kicker(report)}",
        tiles=_tiles(report),
        context={
            "tables": quantity_tables(report.quantities),
            "pictures": model_column(report) if is_known(report) else [],
            "columns": columns(report),
            "towers": tower_rows(report),
            "all_blocks": row("All", report.feed_forward),
            "blocks": block_rows(report),
            "refit": capitalised(refit_text(report)),
            "leak": "" if told is None else leak_text(told),
            "intro": _intro(report),
            "facts": [] if told is None else _facts(report, told),
            "search": None if told is None else search_context(report, told),
            "auto_class": CAUSAL if family is None else family.auto_class,
            "path": json.dumps(report.output, ensure_ascii=False),
            "form": form_text(report),
            "ragged": is_ragged(report),
            "layers": layer_rows(report),
            "budget": budget_rows(report),
            "price_unit": price_unit(report),
            "choices": choices_text(report),
            "final": final_text(report) if was_cut(report) else "",
        },
    )


def _kicker(report: Report) -> str:
    """Say what the page tells, and no more than it can tell."""
    if report.output is None:
        return "what would be saved"
    if not was_cut(report):
        return "nothing was cut"
    if is_priced(report):
        return "what was saved, and what it cost"
    return "what was saved; what it cost was not measured"


def _tiles(report: Report) -> list[Tile]:
    labels = (
        ("model", "Of the model removed"),
        ("attention", "Of its attention"),
        ("ffn", "Of its feed-forward parameters"),
    )
    tiles = saving_tiles(report, labels)
    return [*tiles, *calibration_tiles(report), *measured_tiles(report), *_fit_tiles(report)]


def _fit_tiles(report: Report) -> list[Tile]:
    worst = worst_text(report)
    if not worst:
        return []
    value, _, where = worst.partition(", ")
    how = "refitted" if is_refitted(report) else "not refitted"
    return [Tile("Worst block", value, f"relative error of its output, {how}; {where}")]


def _intro(report: Report) -> str:
    if not lost_neurons(report):
        return "What the model loses was measured on real input."
    text = "The neurons of each block were watched on real input"
    if report.options.get("order") == "surgeon":
        text += "; those that cost least, where the others take over, went first"
    if is_refitted(report):
        return f"{text}. The map behind them was fitted to those that stay."
    return f"{text}. The map behind them was not refitted."


def _facts(report: Report, told: Calibration) -> list[tuple[str, Any]]:
    return [
        ("Data", told.data),
        ("Counted", data_text(told)),
        ("Padding", padding_text(told)),
        *([("Ridge", ridge_told(told.ridge))] if lost_neurons(report) else []),
        ("Price", capitalised(error_name(told))),
        ("What that means", capitalised(meaning_text(report, told))),
    ]
