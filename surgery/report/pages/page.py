"""What every page is made of: headline tiles, groups of pictures, and a template for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from surgery.report.figures.canvas import Picture
from surgery.report.model.report import Report
from surgery.report.text.summary import measured_rows


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
