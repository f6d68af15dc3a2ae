"""Tables of how far training moved the maps: the same rows on page, card and screen."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.report.model.tuning import Moved
from surgery.report.text.linear_tables import Column, Row
from surgery.report.text.linears import error_text
from surgery.report.text.roles import by_role, known, worst
from surgery.report.text.tuning import changes_text, values_text

_COLUMNS = (
    Column("change", "Change", "norm of the difference, relative to that of the weight"),
    Column(
        "values",
        "Singular values",
        "each against the value of the same rank before, the middle 80 % of them",
        "values, middle 80 %",
    ),
    Column("defect", "Defect", "largest departure from orthonormality after training"),
)


def moved_columns(maps: Sequence[Moved]) -> list[Column]:
    """Return the columns that say something of these maps."""
    empty = set()
    if not any(one.before and one.after for one in maps):
        empty.add("values")
    if not known(maps, "defect"):
        empty.add("defect")
    return [column for column in _COLUMNS if column.key not in empty]


def moved_row(label: str, maps: Sequence[Moved]) -> Row:
    """Word the figures of some maps (at least one)."""
    found = worst(maps, "defect")
    return {
        "label": label,
        "maps": str(len(maps)),
        "change": changes_text(maps),
        "values": values_text(maps),
        "defect": error_text(None if found is None else found[0]),
    }


def moved_rows(maps: Sequence[Moved]) -> list[tuple[str, list[Row]]]:
    """Word every role, one row each, by scope."""
    scopes: dict[str, list[Row]] = {}
    for (scope, role), some in by_role(maps).items():
        scopes.setdefault(scope, []).append(moved_row(role, some))
    return list(scopes.items())


def all_moved(maps: Sequence[Moved]) -> Row | None:
    """Word all maps together; ``None`` without any."""
    return moved_row("All", maps) if maps else None
