"""Tables of bytes and FLOPs, a unit each: the same rows on page, card and screen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from surgery.report.model.report import Quantity
from surgery.report.wording import amount, change, count

_TITLES = {"bytes": "Bytes", "FLOPs": "FLOPs"}


@dataclass(frozen=True)
class QuantityRow:
    """One figure, worded. ``executed`` is empty where what runs is what is stored."""

    title: str
    before: str
    after: str
    change: str
    executed: str


@dataclass(frozen=True)
class QuantityTable:
    """Figures of one unit, which the title names.

    ``padded`` says whether any of them executes another number than is stored.
    """

    title: str
    rows: list[QuantityRow]
    padded: bool


def quantity_tables(quantities: Iterable[Quantity]) -> list[QuantityTable]:
    """Word some figures, one table a unit, units in the order they occur."""
    units: dict[str, list[Quantity]] = {}
    for one in quantities:
        units.setdefault(one.unit, []).append(one)
    return [
        QuantityTable(
            title=_TITLES.get(unit, unit),
            rows=[_row(one) for one in some],
            padded=any(one.executed is not None for one in some),
        )
        for unit, some in units.items()
    ]


def _row(one: Quantity) -> QuantityRow:
    def word(value: float) -> str:
        # FLOPs are in the title, and the rest of the unit is in the count
        return count(value) if one.unit == "FLOPs" else amount(value, one.unit)

    return QuantityRow(
        title=one.title,
        before=word(one.before),
        after=word(one.after),
        change=change(one.before, one.after),
        executed="" if one.executed is None else word(one.executed),
    )
