"""Small views of a report that more than one renderer needs: groups, ranges, wordings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.choices.option import flag
from surgery.report.model.report import (
    Measurement,
    PairReport,
    Quantity,
    Report,
    Saving,
    SiteReport,
)
from surgery.report.text.feed_forward import is_narrower, narrower_sentence, was_cut
from surgery.report.text.few_words import data_words
from surgery.report.text.linear_views import is_linear
from surgery.report.text.linears import linear_sentence
from surgery.report.text.tuning import tuning_sentence
from surgery.report.text.vocabulary import vocabulary_sentence
from surgery.report.wording import amount, change, percent, ranges

PAIRS = ("qk", "vo")
PAIR_NAMES = {"qk": "QK", "vo": "VO"}
_ATTENTION = {
    "encoder": "encoder self-attention",
    "decoder": "decoder self-attention",
    "cross": "cross-attention",
}
_MAPS = {"qk": "Q and K", "vo": "V and O"}
_ON = ("trials", "refit", "sequential", "transcribe")
"""Options that are on by default, or with some data: that they were off is told."""
_RULES = (
    "threshold_qk",
    "threshold_vo",
    "energy",
    "remove",
    "up_to",
    "max_error",
    "max_wer_increase",
    "max_ppl_increase",
)


def pair_of(site: SiteReport, pair: str) -> PairReport:
    """Return the ``qk`` or ``vo`` pair of a block."""
    return site.qk if pair == "qk" else site.vo


def sites_by_scope(report: Report) -> dict[str, list[SiteReport]]:
    """Return the blocks of each scope in layer order, scopes in the order they occur."""
    groups: dict[str, list[SiteReport]] = {}
    for site in report.sites:
        groups.setdefault(site.scope, []).append(site)
    return {scope: sorted(sites, key=lambda site: site.layer) for scope, sites in groups.items()}


def is_pruned(report: Report) -> bool:
    """Whether anything was cut: a head lost components, a block neurons, a stack layers."""
    heads = any(_is_cut(pair) for site in report.sites for pair in (site.qk, site.vo))
    return heads or was_cut(report)


def asked_to_cut(report: Report) -> bool:
    """Whether the options hold a rule for cutting, whether or not it found anything."""
    return any(report.options.get(rule) for rule in _RULES)


def is_structure(report: Report) -> bool:
    """Whether only headers were read: shapes are known, and nothing about the weights."""
    spectra = (pair.spectrum for site in report.sites for pair in (site.qk, site.vo))
    other = is_narrower(report) or report.vocabulary is not None
    return report.output is None and not other and not any(spectra)


def saving_named(report: Report, name: str) -> Saving | None:
    """Return the saving called ``name``, if there is one."""
    return next((saving for saving in report.savings if saving.name == name), None)


def pair_in_scope(report: Report) -> str | None:
    """Return the only pair that may be cut, ``qk`` or ``vo``; ``None`` where both may."""
    pairs = report.options.get("pairs")
    return str(pairs[0]) if isinstance(pairs, list) and len(pairs) == 1 else None


def budget_name(report: Report) -> str:
    """Say what budgets are fractions of: ``VO`` where only that is in scope, or ``attention``."""
    return PAIR_NAMES.get(pair_in_scope(report) or "", "attention")


def budget_saving(report: Report) -> Saving | None:
    """Return the saving that budgets are fractions of, if there is one."""
    pair = saving_named(report, pair_in_scope(report) or "")
    return saving_named(report, "attention") if pair is None else pair


def quantity_named(report: Report, name: str) -> Quantity | None:
    """Return the quantity called ``name``, if there is one."""
    return next((quantity for quantity in report.quantities if quantity.name == name), None)


def untouched_reasons(report: Report) -> list[tuple[str, str]]:
    """Say what was left as it was and why: ``(which pairs, reason)``, one entry a reason."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for site in report.sites:
        for name in PAIRS:
            reason = pair_of(site, name).untouched
            if reason is not None:
                groups.setdefault((reason, site.scope, PAIR_NAMES[name]), []).append(site.layer)
    merged: dict[tuple[str, str, tuple[int, ...]], list[str]] = {}
    for (reason, scope, pair), layers in groups.items():
        merged.setdefault((reason, scope, tuple(sorted(layers))), []).append(pair)
    by_reason: dict[str, list[str]] = {}
    for (reason, scope, where), pairs in merged.items():
        what = f"{' and '.join(pairs)} of {scope} layers {ranges(where)}"
        by_reason.setdefault(reason, []).append(what)
    return [("; ".join(parts), reason) for reason, parts in by_reason.items()]


def worst_error(report: Report, name: str) -> float | None:
    """Return the largest of one kind of error (``exact_error``, ...) over all pairs."""
    values = [
        value
        for site in report.sites
        for pair in (site.qk, site.vo)
        for value in getattr(pair, name)
    ]
    return max(values) if values else None


def cut_text(report: Report) -> str:
    """Say which heads were rewritten, and of what the least was cut, as a clause."""
    cut = [site for site in report.sites if any(map(_is_cut, (site.qk, site.vo)))]
    scopes = dict.fromkeys(_ATTENTION.get(site.scope, site.scope) for site in cut or report.sites)
    where = " and ".join(", ".join(scopes).rsplit(", ", 1))
    if not cut:
        return f"in its {where} every head was rewritten in its own basis, and nothing was cut"
    text = f"in its {where} the components of heads that matter least were cut"
    pairs = [pair for pair in PAIRS if any(_is_cut(pair_of(site, pair)) for site in cut)]
    return f"{text}, of {_MAPS[pairs[0]]} alone" if len(pairs) == 1 else text


def _is_cut(pair: PairReport) -> bool:
    return any(rank < pair.full_rank for rank in pair.ranks)


def scope_counts(report: Report) -> str:
    """Say how many blocks of each scope there are: ``32 encoder, 32 cross``."""
    counts = Counter(site.scope for site in report.sites)
    return ", ".join(f"{count} {scope}" for scope, count in counts.items())


@dataclass(frozen=True)
class MeasuredRow:
    """One measurement as it is shown.

    ``tone`` is ``good`` where the result got better, ``bad`` where it got worse, else empty.
    ``before_number`` is the value before without its unit.
    """

    title: str
    data: str
    before: str
    before_number: str
    after: str
    change: str
    tone: str


def measured_rows(report: Report) -> list[MeasuredRow]:
    """Word every measurement: percentages change in points, everything else relatively."""
    return [_measured(measurement) for measurement in report.measurements]


def _measured(measurement: Measurement) -> MeasuredRow:
    before, after, unit = measurement.before, measurement.after, measurement.unit
    shown, tone, difference = "—", "", 0.0
    if before is not None:
        difference = after - before
        if unit == "%":
            sign = "−" if difference < 0 else "+"
            shown = f"{sign}{abs(difference):.2f} points" if difference else "none"
        else:
            shown = change(before, after) if difference else "none"
        worse = difference > 0 if measurement.better == "lower" else difference < 0
        tone = "" if difference == 0 else "bad" if worse else "good"
    return MeasuredRow(
        title=measurement.title,
        data=data_words(measurement),
        before="—" if before is None else amount(before, unit),
        before_number="—" if before is None else amount(before, unit).removesuffix(unit).strip(),
        after=amount(after, unit),
        change=shown,
        tone=tone,
    )


def measured_text(one: Measurement) -> str:
    """Word one measurement as a clause: ``Perplexity 3.12 → 3.31 on WikiText-2 test``."""
    after = amount(one.after, one.unit)
    text = after if one.before is None else f"{amount(one.before, one.unit)} → {after}"
    return f"{one.title} {text} on {data_words(one)}"


def option_items(report: Report) -> list[tuple[str, str]]:
    """Word the options that say something: name and value, empty ones left out."""
    return worded_items(report.options)


def worded_items(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Word settings of any kind: name and value, empty ones left out."""
    items: list[tuple[str, str]] = []
    for key, value in options.items():
        off = value is False and key in _ON
        if value is None or (value is False and not off) or value == [] or value == "":
            continue
        if isinstance(value, list | tuple):
            text = ", ".join(map(str, value))
        elif isinstance(value, bool):
            text = "yes" if value else "no"
        else:
            text = f"{value:g}" if isinstance(value, float) else str(value)
        items.append((flag(key).removeprefix("--"), text))
    return items


def sentence(report: Report) -> str:
    """Say in one sentence what was done, and how much went or may be trained."""
    if report.tuning is not None:
        return tuning_sentence(report, report.tuning)
    if report.vocabulary is not None:
        return vocabulary_sentence(report, report.vocabulary)
    if is_narrower(report):
        return narrower_sentence(report)
    return linear_sentence(report) if is_linear(report) else _attention_sentence(report)


def _attention_sentence(report: Report) -> str:
    """Say how much went, in the denominators it went from."""
    attention, model = saving_named(report, "attention"), saving_named(report, "model")
    dry = report.output is None
    if is_structure(report) and attention is not None and model is not None:
        share = percent(attention.before / model.before) if model.before else "nothing"
        return f"Attention blocks in scope: {scope_counts(report)}; {share} of all parameters."
    if not is_pruned(report):
        if asked_to_cut(report):
            return "The rule found nothing to cut: every head keeps its full rank."
        verb = "would be" if dry else "was"
        return (
            f"Every head {verb} rewritten in its own basis, sorted by importance; nothing "
            f"{'would be' if dry else 'was'} cut."
        )
    if attention is None or model is None:
        return "The smallest components of each head were cut."
    named = ("attention", "model", *PAIRS)
    towers = [one for one in report.savings if one.name not in named]
    parts = [f"{percent(one.removed)} of the {one.title.lower()}" for one in towers]
    parts.append(f"{percent(model.removed)} of the model")
    budget, what = budget_saving(report) or attention, "the attention parameters"
    if budget is not attention:
        parts.insert(0, f"{percent(attention.removed)} of all attention there")
        what = f"the {PAIR_NAMES[budget.name]} parameters"
    whole = " and ".join(parts) if len(parts) < 3 else ", ".join(parts)
    verb = "would go" if dry else "are gone"
    return f"{percent(budget.removed)} of {what} in scope {verb}: {whole}."
