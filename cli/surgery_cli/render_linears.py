"""What the screen shows of linear maps with small trainable parts, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from surgery.report.model.report import Report
from surgery.report.text.linear_tables import columns, role_rows
from surgery.report.text.linear_views import byte_rows
from surgery.report.text.linears import error_text, growth_text, shortfall_text
from surgery.report.text.roles import place_text, worst
from surgery.report.wording import amount, count, percent
from surgery_cli.tables import capped, grouped, quantities, remarks, table

# what fits 80 columns; of the others, the worst is told below
_SHOWN = ("shape", "trainable", "share", "captured", "start")
_REMARKS = {
    "shortfall": ("Certified shortfall", "below the best part of this rank, at worst"),
    "defect": ("Orthogonality defect", "at worst"),
}


def linear_parts(report: Report) -> list[RenderableType]:
    """Return the tables of parameters, bytes and roles, and remarks."""
    parts: list[RenderableType] = []
    if report.trainable is not None:
        parts.append(parameters(report))
    parts += quantities(byte_rows(report))
    if report.linears:
        parts.append(_roles(report))
    return [*parts, remarks(_remarks(report))]


def parameters(report: Report) -> RenderableType:
    """Show how many numbers are trainable, of how many, and the bytes they take."""
    total = report.trainable
    shown = table("Parameters", "source", "frozen", "trainable", "share", "small parts")
    if total is not None:
        shown.add_row(
            "Whole model",
            count(total.before),
            count(total.frozen),
            count(total.trainable),
            Text(percent(total.share), style="bold cyan"),
            amount(total.adapter_bytes, "bytes"),
        )
    return capped(shown)


def _roles(report: Report) -> RenderableType:
    chosen = [column for column in columns(report) if column.key in _SHOWN]
    return grouped("Role", "maps", chosen, role_rows(report))


def _remarks(report: Report) -> Iterator[tuple[str, str]]:
    for name, (label, meaning) in _REMARKS.items():
        found = worst(report.linears, name)
        if found is not None:
            value, linear = found
            text = shortfall_text(value) if name == "shortfall" else error_text(value)
            yield label, f"{text} {meaning}" + (f" ({place_text(linear)})" if value else "")
    if report.trainable is not None:
        yield "Size", growth_text(report.trainable, dry=report.output is None)
    for note in report.notes:
        yield "Note", note
    if report.output is not None:
        yield "To go on", "surgery merge folds the small parts back into plain weights"
