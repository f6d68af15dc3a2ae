"""What the screen shows of a plan: the command, its price, and what else was tried."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from surgery.report.model.planned import ModelPlan, Tried
from surgery.report.text.calibration import data_text, error_name, error_text
from surgery.report.text.damage import held_out_change, held_out_text
from surgery.report.text.feed_forward import DASH
from surgery.report.wording import amount, capitalised, percent, printable
from surgery_cli.tables import capped, remarks, table


def plan_view(plan: ModelPlan) -> RenderableType:
    """Return what the screen shows."""
    parts = [_headline(plan), _tried(plan), _sizes(plan), remarks(_remarks(plan))]
    padded = (Padding(part, (0, 0, 1, 0)) for part in parts)
    text = Text("Run this:\n", style="bold", no_wrap=True, overflow="ignore")
    text.append(printable(plan.command), style="not bold cyan")
    return Group(*padded, text)


def _headline(plan: ModelPlan) -> RenderableType:
    text = Text(printable(plan.model), style="bold")
    text.append(f"  plan for {printable(plan.asked)}", style="not bold cyan")
    text.append("  nothing written", style="not bold dim")
    best = plan.chosen
    went = f"{percent(best.removed or 0.0)} of the model would go: {_name(best)}."
    text.append(f"\n{went}", style="not bold")
    if best.told is not None and best.told.held_out is not None:
        price = capitalised(held_out_text(best.told, best.told.held_out))
        text.append(f"\n{printable(price)}.", style="not bold cyan")
    else:
        text.append("\nNothing was held out: what it costs is not known.", style="not bold red")
    return capped(text)


def _tried(plan: ModelPlan) -> RenderableType:
    """Show every candidate that was run, with what it costs."""
    shown = table("Tried", "gone", "error", "held out", "95 % interval")
    for one in plan.tried:
        if one.told is None:
            continue
        style = "bold" if one is plan.chosen else ""
        value, interval = DASH, DASH
        if one.told.held_out is not None:
            value, interval = held_out_change(one.told.held_out)
        cells = [percent(one.removed or 0.0), _error(one), value, interval]
        mark = "→ " if one is plan.chosen else ""
        shown.add_row(Text(mark + printable(_name(one)), style=style), *map(Text, cells))
    return capped(shown)


def _error(one: Tried) -> str:
    if one.told is None or one.told.measured is None:
        return DASH
    return error_text(one.told.measured, one.told).split()[0]


def _sizes(plan: ModelPlan) -> RenderableType:
    """Show the bytes of what would be written, and of numbers in eight bits alone."""
    best = plan.chosen
    shown = table("Bytes", "original", "planned")
    rows = [("Weights as written", plan.bytes, best.bytes or 0)]
    rows += [(f"As {one.name}", one.original, one.result) for one in plan.alternatives]
    for name, *sizes in rows:
        shown.add_row(Text(name), *(Text(amount(size, "bytes")) for size in sizes))
    return capped(shown)


def _remarks(plan: ModelPlan) -> Iterator[tuple[str, str]]:
    reasons: dict[str, list[str]] = {}
    for one in plan.tried:
        if one.rejected:
            reasons.setdefault(one.rejected, []).append(_name(one))
    for why, names in reasons.items():
        yield f"Rejected: {printable(why)}", "; ".join(names)
    for one in plan.tried:
        if one.refused:
            yield f"Refused: {_name(one)}", one.refused
    told = next((one.told for one in plan.tried if one.told is not None), None)
    if told is not None:
        yield "Error", f"{error_name(told)}, on rows for trials, which chose"
        yield "Calibrated on", f"{told.data}: {data_text(told)}"
    for note in plan.notes:
        yield "Note", note


def _name(one: Tried) -> str:
    told = one.options
    tower = "" if told["scope"] == "all" else f" of the {told['scope']}"
    return f"{told['layout']} {','.join(told['seams'])}{tower}"
