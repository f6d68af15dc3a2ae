"""From a plan and its spectra to the rank of every head, and what can be refused beforehand."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from surgery.choices.rules import ATTENTION_SEAMS, SeamName, check_rule
from surgery.engine.cut.plan import Plan, SitePlan
from surgery.methods import (
    Bound,
    Layout,
    PairSpectrum,
    Ranks,
    Remove,
    Rule,
    SiteDecomposition,
    SiteSpectra,
    UpTo,
    choose_ranks,
)
from surgery.report.accounting import full_ranks, site_parameters
from surgery.runtime.heads import SiteRanks


def plan_ranks(
    plan: Plan,
    spectra: Mapping[str, SiteSpectra],
    *,
    rule: Rule | None = None,
    layout: Layout | None = None,
) -> Ranks:
    """Return the ranks of every pair that may be cut, by block.

    Args:
        plan: What was asked for.
        spectra: Per block, the pairs that may be cut.
        rule: Another rule than the plan's.
        layout: Another layout than the plan's.

    Raises:
        UsageError: The rule, the layout or the multiple cannot be had.
    """
    rule = rule or plan.options.rule
    if rule is None:
        raise ValueError("options were not resolved")
    return choose_ranks(
        spectra,
        rule,
        layout=layout or plan.options.layout,
        multiple=plan.options.multiple,
        total=budget_base(plan, rule) if isinstance(rule, Remove) else None,
    )


def site_ranks(
    plan: Plan, chosen: Ranks, decompositions: Mapping[str, SiteDecomposition]
) -> dict[str, SiteRanks]:
    """Return the ranks of every block in scope, RoPE frequencies named; pairs that stay are full.

    Args:
        plan: What was asked for.
        chosen: Ranks of the pairs that were cut.
        decompositions: Say which frequencies are worth most.
    """
    return {
        each.site.path: _of_site(
            each, chosen.get(each.site.path, {}), decompositions.get(each.site.path)
        )
        for each in plan.sites
    }


def _of_site(
    each: SitePlan, chosen: Mapping[SeamName, list[int]], decomposition: SiteDecomposition | None
) -> SiteRanks:
    full = full_ranks(each.site)
    qk, vo = tuple(chosen.get("qk", full.qk)), tuple(chosen.get("vo", full.vo))
    part = None if decomposition is None else decomposition.qk
    if part is None or part.frequencies is None or qk == full.qk:
        return SiteRanks(qk, vo)
    by_worth = part.frequencies.tolist()
    kept = (tuple(sorted(row[: rank // 2])) for row, rank in zip(by_worth, qk, strict=True))
    return SiteRanks(qk, vo, tuple(kept))


def budget_base(plan: Plan, rule: Remove) -> int | None:
    """Return how many parameters the rule's fraction is of; ``None``: of what may be cut."""
    infos = plan.source.infos
    if rule.of == "model":
        return sum(info.numel for info in infos.values())
    if rule.of == "tower":
        treated = {name for each in plan.sites for name in each.site.tensors()}
        towers = [names for names in plan.claims.towers.values() if treated & set(names)]
        return sum(infos[name].numel for names in towers for name in names)
    # The budget is a fraction of the pairs that were asked for, prunable or not.
    if plan.options.pairs is not None and {*plan.options.pairs} >= {*ATTENTION_SEAMS}:
        return sum(site_parameters(e.site, full_ranks(e.site)) for e in plan.sites)
    return None


def check_ranks(plan: Plan) -> None:
    """Refuse what no spectrum could grant, before hours are spent on the spectra.

    How much can be removed, and which layouts and multiples there are, depends on shapes alone:
    the rule is tried on flat spectra.

    Raises:
        UsageError: As :func:`plan_ranks`.
    """
    flat: dict[str, SiteSpectra] = {}
    for each in plan.sites:
        flat[each.site.path] = {
            name: PairSpectrum(
                torch.ones(seam.groups, seam.width, dtype=torch.float64),
                seam.cost,
                seam.step,
                seam.least,
            )
            for name, seam in each.treated.items()
        }
    # A bound is kept by removing nothing, if need be; but its layout must be possible.
    rule = plan.options.rule
    if isinstance(rule, Bound | UpTo):
        check_rule(rule)
        rule = Remove(0.0)
    plan_ranks(plan, flat, rule=rule)
