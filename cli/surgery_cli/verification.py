"""The table of ``surgery verify``: one row a kind of block and layer, then real input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from surgery.report.text.few_words import data_words

if TYPE_CHECKING:
    from surgery.engine.measure.tokens import TokensVerification
    from surgery.engine.measure.verify import Verification

SHOWN = 40  # blocks listed; a longer model shows its worst ones


def verification_view(found: Verification) -> RenderableType:
    """Render a verification for a terminal of 80 columns."""
    worst = sorted(found.sites, key=lambda site: max((*site.qk, *site.vo)), reverse=True)[:SHOWN]
    shown = [site for site in found.sites if site in worst]
    heads = Table(box=None, title=_title(found), title_justify="left")
    heads.add_column("block", overflow="fold")
    for column in ("QK worst", "QK mean", "VO worst", "VO mean", "bias"):
        heads.add_column(column, justify="right")
    for site in shown:
        heads.add_row(
            site.path,
            *(f"{value:.1e}" for errors in (site.qk, site.vo) for value in _extent(errors)),
            f"{site.output_bias:.0e}",
        )
    parts: list[RenderableType] = [heads]
    if len(found.sites) > len(shown):
        parts.append(Text(f"the {len(shown)} worst of {len(found.sites)} blocks"))
    if found.linears:
        parts += _linears(found.linears)
    same = "none" if not found.changed else f"{len(found.changed)}: {', '.join(found.changed[:3])}"
    parts.append(Text(f"\nOther tensors that changed: {same}"))
    if found.tokens is not None:
        parts.append(_tokens(found.tokens))
    if found.measurements:
        table = Table(box=None, title="\nOn real input", title_justify="left")
        table.add_column("figure", overflow="fold")
        for column in ("before", "after"):
            table.add_column(column, justify="right")
        for row in found.measurements:
            before = "" if row.before is None else f"{row.before:.4g}"
            unit = f" {row.unit}" if row.unit else ""
            table.add_row(f"{row.title} ({data_words(row)})", before, f"{row.after:.4g}{unit}")
        parts.append(table)
    parts += [Text(f"\n{note}") for note in found.notes]
    parts.append(Text(f"\nWorst of all: {found.worst:.2e}", style="bold"))
    return Group(*parts)


def _title(found: Verification) -> str:
    """Name what is exact here, and estimated in reports; and what RoPE makes another quantity."""
    if not any(site.qk_maps for site in found.sites):
        return "Relative error of head products, in full, float64"
    return "Relative error in full, float64. QK: of the maps (RoPE); VO: of the product"


def _linears(errors: dict[str, float]) -> list[RenderableType]:
    """Return the table of other linear maps that differ, the worst ones of a longer model."""
    worst = sorted(errors, key=lambda path: errors[path], reverse=True)[:SHOWN]
    title = "\nRelative error of other linear maps, float64"
    table = Table(box=None, title=title, title_justify="left")
    table.add_column("map", overflow="fold")
    table.add_column("error", justify="right")
    for path in (path for path in errors if path in worst):
        table.add_row(path, f"{errors[path]:.1e}")
    if len(errors) == len(worst):
        return [table]
    return [table, Text(f"the {len(worst)} worst of {len(errors)} maps")]


def _tokens(found: TokensVerification) -> RenderableType:
    """Say what a smaller vocabulary keeps, and list what differs."""
    whole = f"{found.whole} of {found.texts}"
    lines = [
        f"\nTokens: {found.kept:,} of {found.before:,}",
        f"Texts whose tokens all stay: {whole}; of them cut to the same: {found.same}",
    ]
    for name, one in (("Hidden states", found.hidden), ("Logits of kept tokens", found.logits)):
        if one.numbers:
            worst = f", largest difference {one.difference:.1e}" if one.difference else ""
            lines.append(f"{name} equal bit for bit: {one.equal:,} of {one.numbers:,}{worst}")
    if found.written:
        lines.append(
            f"Greedy texts equal where the original wrote kept tokens: {found.agreeing} of "
            f"{found.written}, {found.until_gone} of them up to one that is gone"
        )
    if found.gone:
        used = ", ".join(f"{token} {times}" for token, times in found.gone.items())
        lines.append(f"Used and gone: {used}")
    return Text("\n".join([*lines, *(f"Differs: {one}" for one in found.differing)]))


def _extent(errors: list[float]) -> tuple[float, float]:
    return max(errors), sum(errors) / len(errors)
