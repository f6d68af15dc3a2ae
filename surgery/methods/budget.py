"""One budget over many heads: cut the components that are worth least per parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from surgery.errors import UsageError
from surgery.methods.rules import PAIRS, Remove
from surgery.methods.units import SiteSpectra, Unit, pairs_of


def budget_ranks(
    units: Sequence[Unit],
    spectra: Mapping[str, SiteSpectra],
    rule: Remove,
    multiple: int,
    total: int | None,
) -> list[int]:
    """Return one rank a unit so that at least ``rule.fraction`` of the parameters goes.

    Raises:
        UsageError: More is asked for than can be cut; states the maximum.
    """
    if not rule.per_pair:
        whole = total if total is not None else _cost_of(units, spectra)
        return _cut_cheapest(units, spectra, rule.fraction, whole, multiple, shares=True)
    ranks = [unit.d for unit in units]
    for pair in PAIRS:
        chosen = [i for i, unit in enumerate(units) if pair in pairs_of(unit)]
        if any(len(pairs_of(units[i])) > 1 for i in chosen):
            raise UsageError(
                "--per-pair cuts QK and VO apart, layout 'tied' cuts them together",
                hint="use --layout ragged or block with --per-pair",
            )
        if not chosen:
            continue
        part = [units[i] for i in chosen]
        whole = _cost_of(part, spectra)
        cut = _cut_cheapest(part, spectra, rule.fraction, whole, multiple, shares=False)
        for i, rank in zip(chosen, cut, strict=True):
            ranks[i] = rank
    return ranks


def _cut_cheapest(
    units: Sequence[Unit],
    spectra: Mapping[str, SiteSpectra],
    fraction: float,
    whole: int,
    multiple: int,
    *,
    shares: bool,
) -> list[int]:
    """Cut steps of ``multiple`` vectors in the order of their worth per parameter.

    A unit's components are sorted, so its steps come up from the last to the first: cutting
    in global order never leaves a hole.
    """
    steps: list[tuple[float, int, int, int]] = []  # worth per parameter, unit, rank after, saved
    for index, unit in enumerate(units):
        worth = unit.energy_shares(spectra) if shares else unit.pooled(spectra).square()
        cost = unit.cost(spectra)
        # Values that rounding has left out of order must not reorder the cuts of one unit.
        worth = worth.flip(0).cummax(dim=0).values.flip(0)
        rank = unit.d
        while rank > multiple:
            after = (-(-rank // multiple) - 1) * multiple
            saved = (rank - after) * cost
            mean = float(torch.sum(worth[after:rank])) / saved
            steps.append((mean, index, after, saved))
            rank = after
    # Rank as a tie-break keeps one unit's steps in order where worths are equal.
    steps.sort(key=lambda step: (step[0], -step[2], step[1]))
    most = sum(step[3] for step in steps)
    if fraction * whole > most * (1 + 1e-12):
        raise UsageError(
            "More is to be removed than can be pruned here",
            where="--remove",
            found=f"{fraction:.2%} of {whole:,} attention parameters",
            expected=f"at most {most / whole:.2%}: every head keeps a rank of at least {multiple}"
            if whole
            else "something to prune in this scope",
            hint="remove less, widen --scope or --pairs, or lower --multiple",
        )
    ranks = [unit.d for unit in units]
    removed = 0
    for _, index, after, saved in steps:
        if removed >= fraction * whole * (1 - 1e-12):
            break
        ranks[index] = after
        removed += saved
    return ranks


def _cost_of(units: Sequence[Unit], spectra: Mapping[str, SiteSpectra]) -> int:
    return sum(unit.d * unit.cost(spectra) for unit in units)
