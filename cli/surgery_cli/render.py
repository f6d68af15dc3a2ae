"""What the command line shows: tables from a report, errors, and nothing computed.

Everything fits 80 columns and reads the same without colours. Strings of a report come from
files the user did not write: they are printed as text, never as rich's markup, and without
control characters.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from surgery.errors import SurgeryError
from surgery.report.model.report import Report, SiteReport
from surgery.report.text.damage import damage_text
from surgery.report.text.executed import executed_text
from surgery.report.text.feed_forward import is_narrower
from surgery.report.text.linear_views import is_linear
from surgery.report.text.summary import (
    PAIR_NAMES,
    PAIRS,
    is_pruned,
    is_structure,
    pair_of,
    saving_named,
    sentence,
    sites_by_scope,
    untouched_reasons,
    worst_error,
)
from surgery.report.wording import count, percent, printable, scientific
from surgery_cli.render_calibration import calibration_parts
from surgery_cli.render_feed_forward import feed_forward_parts
from surgery_cli.render_linears import linear_parts
from surgery_cli.render_tuning import tuning_parts
from surgery_cli.render_vocabulary import vocabulary_parts
from surgery_cli.tables import bars, capped, measured, quantities, remarks, savings, table

_SHARES = (0.1, 0.25, 0.5, 0.75)  # of a pair's vectors, in the table of thresholds
_STRIP = 32  # widest strip of layers; more layers share a character


def report_view(report: Report) -> RenderableType:
    """Return what the screen shows after a run or an inspection."""
    parts: list[RenderableType] = [_headline(report)]
    if report.tuning is not None:
        parts += tuning_parts(report, report.tuning)
    else:
        title = "Cost, measured" if is_pruned(report) else "Measured"
        parts += [measured(report, title)] if report.measurements else []
        if report.vocabulary is not None:
            parts += vocabulary_parts(report, report.vocabulary)
        elif is_narrower(report):
            parts += feed_forward_parts(report)
        else:
            parts += linear_parts(report) if is_linear(report) else _attention_parts(report)
    if report.output is not None:
        parts.append(_output(report))
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts[:-1]), parts[-1])


def _attention_parts(report: Report) -> list[RenderableType]:
    structure = is_structure(report)
    parts = [_contents(report) if structure else savings(report), *calibration_parts(report)]
    parts += quantities(report.quantities, compared=not structure)
    if is_pruned(report):
        parts.append(_ranks(report))
    if report.output is None and not structure and report.calibration is None:
        parts.append(_thresholds(report))
    return [*parts, remarks(_remarks(report))]


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
    text.append("\n" + printable(sentence(report)), style="not bold")
    if (damage := damage_text(report)) is not None:
        style = "bold red" if damage.tone == "bad" else "not bold cyan"
        text.append("\n" + printable(damage.text), style=style)
    if report.preset:
        text.append("\nPreset: ", style="not bold dim")
        text.append(printable(report.preset), style="not bold")
    return capped(text)


def _contents(report: Report) -> RenderableType:
    """Show how many parameters there are, where nothing was asked to go."""
    model = saving_named(report, "model")
    shown = table("Parameters", "", "of the model")
    for saving in report.savings:
        share = saving.before / model.before if model is not None and model.before else 0.0
        shown.add_row(Text(saving.title), Text(count(saving.before)), Text(percent(share)))
    return capped(shown)


def _ranks(report: Report) -> RenderableType:
    """Show the mean kept rank of every layer as a strip of blocks, first layer at the left."""
    shown = table("Kept rank", "pair", "first to last layer", "mean", "least", left=3)
    for scope, sites in sites_by_scope(report).items():
        for pair in PAIRS:
            chosen = [site for site in sites if pair_of(site, pair).untouched is None]
            if not chosen:
                continue
            ranks = [rank for site in chosen for rank in pair_of(site, pair).ranks]
            mean, full = sum(ranks) / len(ranks), pair_of(chosen[0], pair).full_rank
            shown.add_row(
                Text(printable(scope)),
                PAIR_NAMES[pair],
                Text(_strip(chosen, pair), style="blue" if pair == "qk" else "yellow"),
                f"{mean:.1f} of {full}",
                str(min(ranks)),
            )
    return capped(shown)


def _thresholds(report: Report) -> RenderableType:
    """Show which threshold on its scores would remove which share of a pair's vectors."""
    shown = table("Threshold to remove", "pair", *(f"{100 * one:g} %" for one in _SHARES), left=2)
    for scope, sites in sites_by_scope(report).items():
        for pair in PAIRS:
            rows = [head for site in sites for head in pair_of(site, pair).spectrum]
            scores = sorted(score for head in rows for score in head)
            if not scores:
                continue
            cuts = [scores[max(0, round(share * len(scores)) - 1)] for share in _SHARES]
            cells = [f"{cut:.3g}" for cut in cuts]
            shown.add_row(Text(printable(scope)), PAIR_NAMES[pair], *cells)
    return capped(shown)


def _strip(sites: list[SiteReport], pair: str) -> str:
    fractions = []
    for site in sites:
        one = pair_of(site, pair)
        fractions.append(sum(one.ranks) / max(len(one.ranks) * one.full_rank, 1))
    step = -(-len(fractions) // _STRIP)
    groups = (fractions[start : start + step] for start in range(0, len(fractions), step))
    means = (sum(group) / len(group) for group in groups)
    return bars(means)


def _remarks(report: Report) -> Iterator[tuple[str, str]]:
    for what, why in untouched_reasons(report):
        label = "Left as it was" if report.output is not None else "Stays as it is"
        yield label, f"{what}: {why}"
    worst = worst_error(report, "exact_error")
    if worst is not None:
        text = f"{scientific(worst)} at worst before any cut, against the original"
        yield "Numerical deviation", text
    if executed := executed_text(report):
        yield "Executed", executed
    for note in report.notes:
        yield "Note", note


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
        return Group(text, capped(time))
    return text
