"""The tables and lines that every view of a report on screen is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from surgery.report.model.report import Quantity, Report
from surgery.report.text.linear_tables import Column, Row
from surgery.report.text.quantity_tables import quantity_tables
from surgery.report.text.summary import measured_rows
from surgery.report.wording import count, percent, printable

WIDTH = 80
_ANY_WIDTH = 1000  # wider than any table
_LONGEST_WORD = 16  # a longer one may be broken
_BLOCKS = "▁▂▃▄▅▆▇█"


def table(*columns: str | Text, left: int = 1) -> Table:
    """Return an empty table: the first ``left`` columns are words, the rest are figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    for index, column in enumerate(columns):
        if index < left:
            table.add_column(column, header_style="bold", overflow="fold")
        else:
            table.add_column(column, header_style="bold", justify="right", no_wrap=True)
    return table


def measured(report: Report, title: str) -> RenderableType:
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


def savings(report: Report) -> RenderableType:
    """Show the parameters before and after, in every denominator."""
    shown = table("Parameters", "before", "stored", "removed")
    for saving in report.savings:
        cells = [count(saving.before), count(saving.stored)]
        removed = Text(percent(saving.removed), style="bold cyan" if saving.removed else "dim")
        shown.add_row(Text(printable(saving.title)), *map(Text, cells), removed)
    return capped(shown)


def quantities(rows: Sequence[Quantity], *, compared: bool = True) -> list[RenderableType]:
    """Show values, a table a unit; before and after where ``compared``, and what runs of them."""
    shown = []
    for one in quantity_tables(rows):
        if not compared:
            plain = table(Text(printable(one.title)), "")
            for row in one.rows:
                plain.add_row(Text(printable(row.title)), Text(row.before))
            shown.append(capped(plain))
            continue
        heads = ["before", "after", "change", *(["executed"] if one.padded else [])]
        drawn = table(Text(printable(one.title)), *heads)
        for row in one.rows:
            style = "" if row.before != row.after else "dim"
            cells = [Text(row.before), Text(row.after), Text(row.change, style=style)]
            if one.padded:
                cells.append(Text(row.executed or "as stored", style="" if row.executed else "dim"))
            drawn.add_row(Text(printable(row.title)), *cells)
        shown.append(capped(drawn))
    return shown


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
    """Keep prose to 80 columns on wider screens, and tables to the screen on narrower ones."""
    if isinstance(content, Table):
        return _Fitting(content)
    from rich.constrain import Constrain

    return Constrain(content, WIDTH)


@dataclass(frozen=True)
class _Fitting:
    """A table; on a screen too narrow for its figures, a row is its name and a line of figures."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        words = [one for one in self.table.columns if not one.no_wrap]
        figures = [one for one in self.table.columns if one.no_wrap]
        for one in self.table.columns:
            said = [_text(cell) for cell in (one.header, *one.cells)]
            if one.no_wrap:
                one.min_width = max(text.cell_len for text in said)
            else:
                longest = max(map(len, " ".join(text.plain for text in said).split()), default=0)
                one.min_width = min(longest, _LONGEST_WORD)
        free = options.update(width=_ANY_WIDTH)
        needed = Measurement.get(console, free, self.table).minimum
        if needed <= options.max_width or not figures:
            yield self.table
            return
        heads = [Text(str(one.header), style="dim") for one in figures]
        yield Text(str(words[0].header), style="bold")
        rows = [[*one.cells] for one in (*words, *figures)]
        for cells in zip(*rows, strict=True):
            name = Text("  ").join(_line(cell) for cell in cells[: len(words)])
            told = [
                Text.assemble(head, " ", _line(cell))
                for head, cell in zip(heads, cells[len(words) :], strict=True)
                if _text(cell)
            ]
            yield name
            if told:  # the name of a section has no figures
                yield Padding(Columns(told, padding=(0, 2)), (0, 0, 0, 2))


def _text(cell: RenderableType) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))


def _line(cell: RenderableType) -> Text:
    return Text("  ").join(_text(cell).split())


def grouped(
    title: str, unit: str, columns: Sequence[Column], rows: Iterable[Row]
) -> RenderableType:
    """Show rows of worded cells, each led by its label and how many it speaks of."""
    titles = (column.short or column.title.lower() for column in columns)
    shown = table(title, unit, *titles)
    for row in rows:
        cells = (Text(row[column.key]) for column in columns)
        shown.add_row(Text(printable(row["label"])), row[unit], *cells)
    return capped(shown)


def warned(text: str) -> RenderableType:
    """Show a warning."""
    shown = Text("Warning: ", style="bold red")
    shown.append(text, style="not bold default")
    return capped(shown)
