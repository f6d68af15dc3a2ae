"""What every page is made of: headline tiles, groups of pictures, and a template for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from surgery.report.figures.canvas import Picture
from surgery.report.model.report import Report
from surgery.report.text.summary import measured_rows, quantity_named, saving_named
from surgery.report.wording import amount, change, count, percent


@dataclass(frozen=True)
class Tile:
    """One headline figure."""

    label: str
    value: str
    detail: str
    tone: str = ""


@dataclass(frozen=True)
class Group:
    """Pictures that belong together."""

    title: str
    intro: str
    pictures: list[Picture]


@dataclass(frozen=True)
class View:
    """One kind of page.

    Attributes:
        template: Template that says what comes between the headline and the provenance.
        kicker: The line above the title.
        tiles: Headline figures.
        context: Everything else the template needs.
    """

    template: str
    kicker: str
    tiles: list[Tile]
    context: dict[str, Any]


def measured_tiles(report: Report, most: int = 2) -> list[Tile]:
    """Return the first measurements as tiles."""
    tiles: list[Tile] = []
    for row in measured_rows(report)[:most]:
        value = row.after if row.before == "—" else f"{row.before_number} → {row.after}"
        tiles.append(Tile(row.title, value, row.data, row.tone))
    return tiles


def tiles_a_row(tiles: int) -> int:
    """Return how many tiles share a row, so that the last row is not a lone one."""
    return 3 if tiles % 3 == 0 or tiles % 4 == 1 else 4


def saving_tiles(report: Report, labels: Iterable[tuple[str, str]]) -> list[Tile]:
    """Return what was saved of parameters, under these labels by name, and on disk."""
    tiles: list[Tile] = []
    for name, label in labels:
        saving = saving_named(report, name)
        if saving is not None:
            detail = f"{count(saving.before)} → {count(saving.stored)}"
            tiles.append(Tile(label, percent(saving.removed), detail, "saved"))
    disk = quantity_named(report, "disk_bytes")
    if disk is not None:
        detail = f"{amount(disk.before, disk.unit)} → {amount(disk.after, disk.unit)}"
        tiles.append(Tile("Weights on disk", change(disk.before, disk.after), detail))
    return tiles
