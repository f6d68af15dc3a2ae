"""How much a model's output moves when one pair of one block is cut, alone: measured, not assumed.

A block's own error says little of what the layers behind it make of it, and queries and keys
err in other units than values. So each pair is cut on trial, at several depths, and the damage
to the output is put against the energy that the cut dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from surgery.architectures.base import AttentionSite
from surgery.calibration.cut import SiteCut, cut_heads, kept_product
from surgery.calibration.witness import Witness
from surgery.choices.rules import SeamName
from surgery.events import Event, Progress
from surgery.methods import PairDecomposition, SiteDecomposition
from surgery.methods.units import dropped_share

TRIALS = (0.25, 0.5, 0.75)
"""Fractions of a pair's vectors that the trials cut, those of least energy."""

Tried = list[tuple[float, float]]
"""Of one pair: share of its energy dropped, and the damage that it did, cut by cut."""

Trials = dict[tuple[str, SeamName], Tried]
"""By block and pair."""


def measure_sensitivities(
    witness: Witness,
    sites: Sequence[AttentionSite],
    decompositions: Mapping[str, SiteDecomposition],
    progress: Progress,
    known: Mapping[tuple[str, SeamName], Tried] | None = None,
    keep: Callable[[str, SeamName, Tried], None] | None = None,
) -> Trials:
    """Cut every pair of every block on trial.

    Args:
        witness: What the original says.
        sites: The blocks.
        decompositions: How each would be cut, by its path.
        progress: Receives one event a trial.
        known: What an earlier run found of some pairs: those are not tried again.
        keep: Called with what was found of a pair, as soon as it was.
    """
    todo: list[tuple[AttentionSite, SeamName, PairDecomposition]] = []
    for site in sites:
        todo += [(site, pair, part) for pair, part in decompositions[site.path].parts.items()]
    trials: Trials = {}
    for number, (site, pair, part) in enumerate(todo):
        progress(Event("Measuring sensitivities", number, len(todo), f"{site.path} {pair}"))
        if known is not None and (site.path, pair) in known:
            trials[site.path, pair] = known[site.path, pair]
            continue
        tried = [try_cut(witness, witness.model, site, pair, part, each) for each in TRIALS]
        if not any(dropped for dropped, _ in tried):  # a few vectors hold all of the energy
            tried.append(try_cut(witness, witness.model, site, pair, part, 1.0))
        trials[site.path, pair] = tried
        if keep is not None:
            keep(site.path, pair, tried)
    progress(Event("Measuring sensitivities", len(todo), len(todo)))
    return trials


def try_cut(
    witness: Witness,
    model: Any,
    site: AttentionSite,
    pair: SeamName,
    part: PairDecomposition,
    fraction: float,
) -> tuple[float, float]:
    """Cut a fraction of one pair's vectors; return the share of energy dropped and the damage."""
    ranks = least_energy_ranks(part, fraction)
    product = kept_product(part, ranks)
    with cut_heads(model, [site], {site.path: SiteCut.of({pair: product})}):
        return dropped_share(part.spectrum, ranks), witness.damage()


def least_energy_ranks(part: PairDecomposition, fraction: float) -> list[int]:
    """Return ranks that keep all but this fraction of the vectors, those of least energy.

    Every head keeps at least what can only go together, so somewhat fewer may go.
    """
    heads = part.spectrum.shape[0]
    steps = torch.unflatten(part.spectrum.square(), 1, (-1, part.step)).sum(dim=-1)
    gone = torch.zeros(steps.numel(), dtype=torch.bool)
    gone[steps.flatten().argsort(stable=True)[: int(fraction * steps.numel())]] = True
    kept = torch.unflatten(~gone, 0, (heads, -1)).sum(dim=1).clamp(min=1)
    return [int(count) * part.step for count in kept]
