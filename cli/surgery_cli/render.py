"""What the command line shows: tables from a report, errors, and nothing computed.

Everything fits 80 columns and reads the same without colours. Strings of a report come from
files the user did not write: they are printed as text, never as rich's markup, and without
control characters.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from surgery.errors import SurgeryError
from surgery.report.model import Report, SiteReport
from surgery.report.summary import (
    PAIR_NAMES,
    PAIRS,
    executes_more,
    is_pruned,
    is_structure,
    measured_rows,
    pair_of,
    sentence,
    sites_by_scope,
    untouched_reasons,
    worst_error,
)
from surgery.report.wording import amount, change, count, percent, printable, scientific

_WIDTH = 80
_BLOCKS = "▁▂▃▄▅▆▇█"
_SHARES = (0.1, 0.25, 0.5, 0.75)  # of a pair's vectors, in the table of thresholds
_STRIP = 32  # widest strip of layers; more layers share a character


def report_view(report: Report) -> RenderableType:
    """Return what the screen shows after a run or an inspection."""
    parts: list[RenderableType] = [_headline(report)]
    if report.measurements:
        parts.append(_measured(report))
    parts.append(_savings(report))
    parts.append(_quantities(report))
    if is_pruned(report):
        parts.append(_ranks(report))
    if report.output is None and not is_structure(report):
        parts.append(_thresholds(report))
    parts.append(_remarks(report))
    if report.output is not None:
        parts.append(_output(report))
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts[:-1]), parts[-1])


def error_view(error: SurgeryError) -> RenderableType:
    """Return an error as the screen shows it: what is wrong, then where, found, expected, hint."""
    text = Text("error: ", style="bold red")
    first, *details = error.render().splitlines()
    text.append(printable(first), style="bold default")
    for detail in details:
        label, _, rest = detail.partition(": ")
        text.append("\n" + printable(label), style="dim")
        text.append((": " + printable(rest)) if rest else "")
    return text


def _headline(report: Report) -> RenderableType:
    text = Text(printable(report.source.name), style="bold")
    text.append(f"  {printable(report.method)}", style="not bold cyan")
    if report.output is None:
        text.append("  nothing written", style="not bold dim")
    text.append("\n" + sentence(report), style="not bold")
    if report.preset:
        text.append("\nPreset: ", style="not bold dim")
        text.append(printable(report.preset), style="not bold")
    return _capped(text)


def _table(*columns: str, left: int = 1) -> Table:
    """Return an empty table: the first ``left`` columns are words, the rest are figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    for index, column in enumerate(columns):
        if index < left:
            table.add_column(column, header_style="bold", overflow="fold")
        else:
            table.add_column(column, header_style="bold", justify="right", no_wrap=True)
    return table


def _measured(report: Report) -> RenderableType:
    table = _table("Cost, measured", "on", "before", "after", "change", left=2)
    tones = {"good": "green", "bad": "red", "": ""}
    for row in measured_rows(report):
        table.add_row(
            Text(printable(row.title)),
            Text(printable(row.data), style="dim"),
            Text(printable(row.before)),
            Text(printable(row.after)),
            Text(printable(row.change), style=tones[row.tone]),
        )
    return _capped(table)


def _savings(report: Report) -> RenderableType:
    table = _table("Parameters", "before", "stored", "executed", "removed")
    for saving in report.savings:
        cells = [count(saving.before), count(saving.stored), count(saving.executed)]
        removed = Text(percent(saving.removed), style="bold cyan" if saving.removed else "dim")
        table.add_row(Text(saving.title), *map(Text, cells), removed)
    return _capped(table)


def _quantities(report: Report) -> RenderableType:
    executed = executes_more(report)
    columns = ["Bytes, attention FLOPs", "before", "after", "change"]
    table = _table(*columns, *(["executed"] if executed else []))
    for one in report.quantities:
        cells = [
            Text(amount(one.before, one.unit)),
            Text(amount(one.after, one.unit)),
            Text(change(one.before, one.after), style="" if one.after != one.before else "dim"),
        ]
        if executed:
            shown = amount(one.executed, one.unit) if one.executed is not None else ""
            cells.append(Text(shown))
        table.add_row(Text(one.title), *cells)
    return _capped(table)


def _ranks(report: Report) -> RenderableType:
    """Show the mean kept rank of every layer as a strip of blocks, first layer at the left."""
    table = _table("Kept rank", "pair", "first to last layer", "mean", "least", left=3)
    for scope, sites in sites_by_scope(report).items():
        for pair in PAIRS:
            chosen = [site for site in sites if pair_of(site, pair).untouched is None]
            if not chosen:
                continue
            ranks = [rank for site in chosen for rank in pair_of(site, pair).ranks]
            mean, full = sum(ranks) / len(ranks), pair_of(chosen[0], pair).full_rank
            table.add_row(
                Text(printable(scope)),
                PAIR_NAMES[pair],
                Text(_strip(chosen, pair), style="blue" if pair == "qk" else "yellow"),
                f"{mean:.1f} of {full}",
                str(min(ranks)),
            )
    return _capped(table)


def _thresholds(report: Report) -> RenderableType:
    """Show which threshold on its scores would remove which share of a pair's vectors."""
    table = _table("To remove", "pair", *(f"{share:.0%}" for share in _SHARES), left=2)
    for scope, sites in sites_by_scope(report).items():
        for pair in PAIRS:
            rows = [head for site in sites for head in pair_of(site, pair).spectrum]
            scores = sorted(score for head in rows for score in head)
            if not scores:
                continue
            cuts = [scores[max(0, round(share * len(scores)) - 1)] for share in _SHARES]
            cells = [f"{cut:.3g}" for cut in cuts]
            table.add_row(Text(f"{printable(scope)}: cut at"), PAIR_NAMES[pair], *cells)
    return _capped(table)


def _strip(sites: list[SiteReport], pair: str) -> str:
    fractions = []
    for site in sites:
        one = pair_of(site, pair)
        fractions.append(sum(one.ranks) / max(len(one.ranks) * one.full_rank, 1))
    step = -(-len(fractions) // _STRIP)
    groups = (fractions[start : start + step] for start in range(0, len(fractions), step))
    means = (sum(group) / len(group) for group in groups)
    return "".join(_BLOCKS[min(int(mean * len(_BLOCKS)), len(_BLOCKS) - 1)] for mean in means)


def _remarks(report: Report) -> RenderableType:
    text = Text()

    def say(label: str, words: Iterable[str]) -> None:
        for word in words:
            if text:
                text.append("\n")
            text.append(f"{label}: ", style="dim")
            text.append(printable(word))

    say("Left as it was", (f"{what}: {why}" for what, why in untouched_reasons(report)))
    worst = worst_error(report, "exact_error")
    if worst is not None:
        say(
            "Numerical deviation",
            [f"{scientific(worst)} at worst before any cut, against the original"],
        )
    if executes_more(report):
        say("Executed", ["heads of a block run at its widest head's width; --layout block: none"])
    say("Note", report.notes)
    return _capped(text)


def _output(report: Report) -> RenderableType:
    # one line each, unwrapped, so that paths can be copied
    text = Text(no_wrap=True, overflow="ignore")
    text.append("Written to ", style="dim")
    text.append(printable(report.output or ""), style="bold")
    text.append("\nPictures in ", style="dim")
    text.append(f"{printable(report.output or '')}/report.html")
    if report.seconds:
        spent = ", ".join(f"{printable(k)} {v:.1f} s" for k, v in report.seconds.items())
        time = Text(f"{sum(report.seconds.values()):.1f} s  ({spent})", style="dim")
        return Group(text, _capped(time))
    return text


def _capped(content: Table | Text) -> RenderableType:
    """Keep prose and tables to 80 columns on wider screens."""
    if isinstance(content, Table):
        return content
    from rich.constrain import Constrain

    return Constrain(content, _WIDTH)
