"""What the page of a report about a smaller vocabulary shows."""

from __future__ import annotations

import json

from surgery.architectures import ARCHITECTURES
from surgery.architectures.base import CAUSAL
from surgery.report.figures import coverage_curve, savings_bars
from surgery.report.model.report import Report
from surgery.report.model.vocabulary import VocabularyReport
from surgery.report.pages.page import Tile, View, measured_tiles
from surgery.report.text.quantity_tables import quantity_tables
from surgery.report.text.summary import quantity_named, saving_named
from surgery.report.text.vocabulary import reason_rows, use_rows
from surgery.report.wording import amount, change, count, percent


def vocabulary_view(report: Report, told: VocabularyReport) -> View:
    """Return tiles, pictures, and tables of what stays and why."""
    family = ARCHITECTURES.get(report.source.model_type)
    dry = report.output is None
    return View(
        template="vocabulary.html.j2",
        kicker=f"{report.method}: {'what would be saved' if dry else 'what was saved'}",
        tiles=_tiles(report, told),
        context={
            "told": told,
            "tables": quantity_tables(report.quantities),
            "pictures": [*savings_bars(report), *coverage_curve(report)],
            "uses": use_rows(told),
            "reasons": reason_rows(told),
            "auto_class": CAUSAL if family is None else family.auto_class,
            "path": json.dumps(report.output, ensure_ascii=False),
        },
    )


def _tiles(report: Report, told: VocabularyReport) -> list[Tile]:
    model = saving_named(report, "model")
    tiles = []
    if model is not None:
        detail = f"{count(model.before)} → {count(model.stored)}"
        tiles.append(Tile("Of the model removed", percent(model.removed), detail, "saved"))
    share = percent(1 - told.kept / told.before)
    tiles.append(Tile("Of its tokens removed", share, f"{told.before:,} → {told.kept:,}", "saved"))
    disk = quantity_named(report, "disk_bytes")
    if disk is not None:
        detail = f"{amount(disk.before, disk.unit)} → {amount(disk.after, disk.unit)}"
        tiles.append(Tile("Weights on disk", change(disk.before, disk.after), detail))
    tiles += [Tile("Uses covered", percent(one.covered), one.name) for one in told.uses[:2]]
    return [*tiles, *measured_tiles(report)]
