"""From a plan, its decompositions and ranks to the report every view is drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

from surgery.choices.rules import ATTENTION_SEAMS, SeamName
from surgery.engine.cut.plan import Plan, SitePlan
from surgery.engine.cut.rewrite import Errors, tensor_table
from surgery.methods import Lossless, PairDecomposition, SiteDecomposition, Thresholds
from surgery.methods.units import energy_share
from surgery.report.accounting import restructured, savings, told_source
from surgery.report.costs import beside_attention, quantities, sequence_lengths
from surgery.report.model.report import PairReport, Report, Saving, SiteReport
from surgery.runtime.heads import SiteRanks
from surgery.stored.stored import stored_dtype
from surgery.version import versions


def build_report(
    plan: Plan,
    ranks: Mapping[str, SiteRanks],
    *,
    decompositions: Mapping[str, SiteDecomposition],
    errors: Errors,
    sha256: Mapping[str, str],
    output: str | None,
) -> Report:
    """Assemble the report; what was not computed (no weights read, nothing written) stays empty."""
    before = tensor_table(plan)
    sites = [each.site for each in plan.sites]
    after = {
        name: (shape, plan.output_dtype(name).itemsize)
        for name, (shape, _) in restructured(before, sites, ranks).items()
    }
    shapes = {name: shape for name, (shape, _) in before.items()}
    lossless = isinstance(plan.options.rule, Lossless)
    return Report(
        title=f"{plan.source.name}: attention {'restructured' if lossless else 'pruned'}",
        method=plan.options.baseline or "absorb-decompose",
        options=plan.options.plain(),
        preset=plan.options.reason,
        source=told_source(plan.source, stored_dtype(plan.source), sha256),
        versions=versions(),
        sites=[
            SiteReport(
                path=each.site.path,
                scope=each.site.scope,
                layer=each.site.layer,
                heads=each.site.heads,
                kv_heads=each.site.kv_heads,
                head_dim=each.site.head_dim,
                qk=_pair(plan, each, "qk", ranks, decompositions, errors),
                vo=_pair(plan, each, "vo", ranks, decompositions, errors),
            )
            for each in plan.sites
        ],
        savings=_with_pair(plan, ranks, savings(sites, before, after, plan.claims.towers)),
        quantities=quantities(
            plan.claims.sites,
            ranks,
            before,
            after,
            sequence_lengths(plan.config),
            beside_attention(plan.family, plan.claims, shapes),
        ),
        notes=_notes(plan, ranks, written=output is not None),
        output=output,
    )


def _with_pair(
    plan: Plan, ranks: Mapping[str, SiteRanks], counted: Sequence[Saving]
) -> list[Saving]:
    """Add what budgets are fractions of, where only one pair is in scope: that pair."""
    pairs = plan.options.pairs or ATTENTION_SEAMS
    if len(pairs) > 1:
        return list(counted)
    (pair,) = pairs
    before = stored = 0
    for each in plan.sites:
        if (seam := each.treated.get(pair)) is not None:
            before += seam.groups * seam.width * seam.cost
            stored += sum(ranks[each.site.path].of(pair)) * seam.cost
    title = f"{pair.upper()} in scope ({', '.join(pair.upper())})"
    return [counted[0], Saving(pair, title, before, stored, stored), *counted[1:]]


def _pair(
    plan: Plan,
    each: SitePlan,
    pair: SeamName,
    ranks: Mapping[str, SiteRanks],
    decompositions: Mapping[str, SiteDecomposition],
    errors: Errors,
) -> PairReport:
    path = each.site.path
    kept = list(ranks[path].of(pair))
    measured = errors.get(path)
    decomposition = decompositions.get(path)
    part = None if decomposition is None else decomposition.parts.get(pair)
    rule = plan.options.rule
    threshold = rule.of(pair) if isinstance(rule, Thresholds) else None
    return PairReport(
        ranks=kept,
        full_rank=each.site.head_dim,
        spectrum=[] if part is None else part.spectrum.tolist(),
        cut_error=[] if part is None else cut_errors(part, kept),
        exact_error=measured["exact"].get(pair, []) if measured else [],
        cast_error=measured["written"].get(pair, []) if measured else [],
        untouched=each.untouched.get(pair),
        threshold=threshold,
    )


def cut_errors(part: PairDecomposition, ranks: list[int]) -> list[float]:
    """Return the predicted relative error of each head's product: what the cut leaves out."""
    shares = energy_share(part.spectrum)
    return [sqrt(max(0.0, float(shares[head, rank:].sum()))) for head, rank in enumerate(ranks)]


def _notes(plan: Plan, ranks: Mapping[str, SiteRanks], *, written: bool) -> list[str]:
    notes: list[str] = []
    was = "was" if written else "would be"
    if any(each.mixes("qk") and each.site.k.bias for each in plan.sites):
        notes.append(f"The bias of k {was} dropped: softmax over keys does not see it.")
    if any(each.mixes("vo") and each.site.v.bias and each.site.o.bias for each in plan.sites):
        notes.append(f"The bias of v {was} moved into o's: attention weights sum to one.")
    kept = [rank for each in plan.sites for rank in ranks[each.site.path].vo]
    if gone := kept.count(0):
        keep = "keep" if written else "would keep"
        notes.append(f"{gone:,} of {len(kept):,} key/value heads {keep} no values.")
    return notes
