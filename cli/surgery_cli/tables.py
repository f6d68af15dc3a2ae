"""The tables and lines that every view of a report on screen is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from surgery.report.model import Quantity, Report
from surgery.report.summary import measured_rows
from surgery.report.wording import amount, change, printable

WIDTH = 80
_BLOCKS = "▁▂▃▄▅▆▇█"


def table(*columns: str, left: int = 1) -> Table:
    """Return an empty table: the first ``left`` columns are words, the rest are figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    for index, column in enumerate(columns):
        if index < left:
            table.add_column(column, header_style="bold", overflow="fold")
        else:
            table.add_column(column, header_style="bold", justify="right", no_wrap=True)
    return table


def measured(report: Report, title: str = "Cost, measured") -> RenderableType:
    """Show what was measured on real input, before and after."""
    shown = table(title, "on", "before", "after", "change", left=2)
    tones = {"good": "green", "bad": "red", "": ""}
    for row in measured_rows(report):
        shown.add_row(
            Text(printable(row.title)),
            Text(printable(row.data), style="dim"),
            Text(printable(row.before)),
            Text(printable(row.after)),
            Text(printable(row.change), style=tones[row.tone]),
        )
    return capped(shown)


def quantities(title: str, rows: Sequence[Quantity], *, executed: bool = False) -> RenderableType:
    """Show values before and after, and what runs where that differs from what is stored."""
    shown = table(title, "before", "after", "change", *(["executed"] if executed else []))
    for one in rows:
        cells = [
            Text(amount(one.before, one.unit)),
            Text(amount(one.after, one.unit)),
            Text(change(one.before, one.after), style="" if one.after != one.before else "dim"),
        ]
        if executed:
            ran = amount(one.executed, one.unit) if one.executed is not None else ""
            cells.append(Text(ran))
        shown.add_row(Text(printable(one.title)), *cells)
    return capped(shown)


def remarks(lines: Iterable[tuple[str, str]]) -> RenderableType:
    """Show labelled lines: ``(label, words)``."""
    text = Text()
    for label, words in lines:
        if text:
            text.append("\n")
        text.append(f"{label}: ", style="dim")
        text.append(printable(words))
    return capped(text)


def bars(shares: Iterable[float]) -> str:
    """Draw shares of the whole as a strip of blocks: ``▂▅█``."""
    return "".join(_BLOCKS[min(int(share * len(_BLOCKS)), len(_BLOCKS) - 1)] for share in shares)


def capped(content: Table | Text) -> RenderableType:
    """Keep prose and tables to 80 columns on wider screens."""
    if isinstance(content, Table):
        return content
    from rich.constrain import Constrain

    return Constrain(content, WIDTH)
