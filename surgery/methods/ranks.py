"""From spectra and a rule to ranks, under a layout."""

from __future__ import annotations

from collections.abc import Mapping

from surgery.choices.rules import (
    Energy,
    Layout,
    Lossless,
    Remove,
    Rule,
    SeamName,
    Thresholds,
    check_rule,
)
from surgery.errors import UsageError
from surgery.methods.budget import budget_ranks
from surgery.methods.units import (
    Ranks,
    SiteSpectra,
    Unit,
    energy_share,
    make_units,
    pairs_of,
    spread,
)


def choose_ranks(
    spectra: Mapping[str, SiteSpectra],
    rule: Rule,
    *,
    layout: Layout = "ragged",
    multiple: int = 1,
    total: int | None = None,
) -> Ranks:
    """Return the rank of every head of every pair in ``spectra``.

    Args:
        spectra: Per site, the pairs that may be cut.
        rule: Where to cut.
        layout: Which ranks must be equal.
        multiple: Ranks are multiples of this (and of what can only go together), or the full
            head dimension. A head of a seam that cannot go whole keeps one such multiple.
        total: Parameters that ``Remove.fraction`` is a fraction of; by default what the
            vectors in ``spectra`` cost.

    Raises:
        UsageError: The layout cannot be had, a number is out of range, or more is to be
            removed than can be.
    """
    _check(spectra, rule, layout, multiple)
    units = make_units(spectra, layout)
    if isinstance(rule, Lossless):
        return spread(units, [unit.d for unit in units])
    if isinstance(rule, Remove):
        return spread(units, budget_ranks(units, spectra, rule, multiple, total))
    ranks = []
    for unit in units:
        wanted = max(_cut(unit, pair, spectra, rule) for pair in pairs_of(unit))
        step, least = unit.step(spectra, multiple), unit.least(spectra, multiple)
        ranks.append(round_rank(wanted, unit.d, step, least))
    return spread(units, ranks)


def round_rank(rank: int, full: int, multiple: int, least: int | None = None) -> int:
    """Round up to a multiple, at least ``least`` (one multiple) and at most the full rank."""
    least = multiple if least is None else least
    return min(full, max(least, -(-rank // multiple) * multiple))


def _cut(unit: Unit, pair: SeamName, spectra: Mapping[str, SiteSpectra], rule: Rule) -> int:
    if isinstance(rule, Thresholds):
        threshold = rule.of(pair)
        if threshold is None:
            return unit.d
        return int((unit.pooled(spectra, pair) > threshold).sum())
    if isinstance(rule, Energy):
        kept = energy_share(unit.pooled(spectra, pair)).cumsum(dim=0)
        if kept[-1] == 0:  # of nothing, nothing is a share
            return 0
        # Rounding may leave the last sum just below one.
        return min(unit.d, int((kept < rule.fraction - 1e-12).sum()) + 1)
    raise TypeError(f"unknown rule {rule!r}")


def _check(spectra: Mapping[str, SiteSpectra], rule: Rule, layout: Layout, multiple: int) -> None:
    if multiple < 1:
        raise UsageError("--multiple must be at least 1", found=multiple)
    for site, pairs in spectra.items():
        for pair, spectrum in pairs.items():
            if multiple > spectrum.values.shape[1]:
                raise UsageError(
                    "--multiple is larger than a head",
                    where=f"{site} {pair}",
                    found=multiple,
                    expected=f"at most the head dimension {spectrum.values.shape[1]}",
                )
        if layout == "tied" and len(pairs) < 2 and not isinstance(rule, Lossless):
            raise UsageError(
                "Layout 'tied' needs one rank for QK and VO, but only "
                f"{'/'.join(pairs).upper()} can be cut here",
                where=site,
                hint="use --layout block, or cut both pairs (not possible across RoPE or a norm)",
            )
    check_rule(rule)
