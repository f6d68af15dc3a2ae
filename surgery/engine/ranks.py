"""From a plan and its spectra to the rank of every head, and what can be refused beforehand."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from surgery.architectures.ranks import SiteRanks, full_ranks
from surgery.engine.pack import vector_cost
from surgery.engine.plan import Plan
from surgery.methods import PairSpectrum, SiteSpectra, choose_ranks
from surgery.methods.rules import Pair
from surgery.report.accounting import site_parameters


def plan_ranks(plan: Plan, spectra: Mapping[str, SiteSpectra]) -> dict[str, SiteRanks]:
    """Return the ranks of every block in scope; pairs that stay are full.

    Raises:
        UsageError: The rule, the layout or the multiple cannot be had.
    """
    rule = plan.options.rule
    if rule is None:
        raise ValueError("options were not resolved")
    # The budget is a fraction of the pairs that were asked for, prunable or not.
    total = None
    if plan.options.pairs is not None and len(plan.options.pairs) == 2:
        total = sum(site_parameters(e.site, full_ranks(e.site)) for e in plan.sites)
    chosen = choose_ranks(
        spectra,
        rule,
        layout=plan.options.layout,
        multiple=plan.options.multiple,
        total=total,
    )
    ranks: dict[str, SiteRanks] = {}
    for each in plan.sites:
        full = full_ranks(each.site)
        pairs = chosen.get(each.site.path, {})
        ranks[each.site.path] = SiteRanks(
            qk=tuple(pairs.get("qk", full.qk)), vo=tuple(pairs.get("vo", full.vo))
        )
    return ranks


def check_ranks(plan: Plan) -> None:
    """Refuse what no spectrum could grant, before hours are spent on the spectra.

    How much can be removed, and which layouts and multiples there are, depends on shapes alone:
    the rule is tried on flat spectra.

    Raises:
        UsageError: As :func:`plan_ranks`.
    """
    flat: dict[str, SiteSpectra] = {}
    for each in plan.sites:
        qk_cost, vo_cost = vector_cost(each.site)
        ones = torch.ones(each.site.kv_heads, each.site.head_dim, dtype=torch.float64)
        spectra: dict[Pair, PairSpectrum] = {}
        if each.qk:
            spectra["qk"] = PairSpectrum(ones, qk_cost)
        if each.vo:
            spectra["vo"] = PairSpectrum(ones, vo_cost)
        flat[each.site.path] = spectra
    plan_ranks(plan, flat)
