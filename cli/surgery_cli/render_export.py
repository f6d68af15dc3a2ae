"""What the screen shows of exports: which targets fit, what was written, and how it ran."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from surgery.report.wording import percent, printable, scientific
from surgery_cli.tables import capped, remarks, table

if TYPE_CHECKING:
    from surgery.export.routes import Route
    from surgery.export.run import Exported


def routes_view(routes: Sequence[Route]) -> RenderableType:
    """Show every target: whether it fits, how much of the savings stays, and what would do."""
    shown = table("--to", "savings kept", left=2)
    shown.add_column("what would be written", overflow="fold", header_style="bold")
    remedies: list[tuple[str, str]] = []
    for route in routes:
        fit = route.fit
        if not fit.needed:
            kept = Text("not needed", style="dim")
        elif not fit.possible:
            kept = Text("does not fit", style="red")
        elif fit.kept is None:
            kept = Text("—", style="dim")
        elif fit.kept > 0:
            kept = Text(percent(fit.kept), style="green")
        else:
            kept = Text("none", style="yellow")
        words = Text(f"{printable(route.title)}: ", style="dim")
        words.append(printable(fit.form), style="not dim")
        shown.add_row(route.target or "(as it is)", kept, words)
        if fit.remedy and fit.needed:
            remedies.append((route.target, fit.remedy))
        if fit.possible and route.missing:
            remedies.append((route.target, f"not installed here; {route.install}"))
        elif fit.possible and route.untried:
            lacking = ", ".join(route.untried)
            remedies.append(
                (route.target, f"written, not run: {lacking} is not installed; {route.install}")
            )
    parts: list[RenderableType] = [capped(shown)]
    if remedies:
        parts += ["", remarks(remedies)]
    return Group(*parts)


def exported_view(made: Exported) -> RenderableType:
    """Show what one export wrote, how it ran, and how to load it."""
    lines = [("Written", f"{made.form}; {made.sizes.told}")]
    if made.kept is not None:
        lines.append(("Savings kept", percent(made.kept) if made.kept else "none at run time"))
    if made.comparison is not None:
        one = made.comparison
        error = "" if one.error is None else f"relative difference {scientific(one.error)} "
        lines.append((f"Run in {one.runtime}", f"{error}({one.what})" if error else one.what))
    lines += [("Note", note) for note in made.notes]
    return Group(
        Text(f"Exported for {made.title}", style="bold"),
        remarks(lines),
        "",
        Text(f"Written to {made.output}. Load it with:"),
        Text(made.usage, style="cyan"),
    )
