"""Heads that share a rank, under a layout, and their pooled spectra.

A *layout* says which heads share a rank, so it defines the units that are kept or
cut together:

* ``ragged``: every head has its own rank, for QK and for VO.
* ``block``: all heads of a block share one QK rank and one VO rank.
* ``tied``: all heads of a block share one rank for QK and VO.
* ``model``: all heads of all blocks share one QK rank and one VO rank (by head dimension, where
  blocks differ in it).

Layouts are constraints inside a rule, not a repair after it: the rule sees one pooled
spectrum a unit, and cuts that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import lcm

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.choices.rules import Layout, SeamName
from surgery.methods.damage import DamageCurve


@dataclass(frozen=True)
class PairSpectrum:
    """The spectrum of one pair of one block, and what one rank of one head costs.

    Attributes:
        values: Descending, per key/value head.
        cost: Parameters that one vector of one key/value head takes, biases included.
        step: Vectors that only go together: 2 for the rows of a RoPE frequency.
        least: Vectors of a head that stay at least: 0, or as many as go together.
        damage: What dropping part of the pair does to the model's output, where that was
            measured; without it a component is worth its share of its head's energy.
    """

    values: Float[Tensor, "kv d"]
    cost: int
    step: int = 1
    least: int = 1
    damage: DamageCurve | None = None


SiteSpectra = Mapping[SeamName, PairSpectrum]
"""The pairs of one block that may be cut."""

Ranks = dict[str, dict[SeamName, list[int]]]
"""Site path to pair to one rank a key/value head."""


@dataclass(frozen=True)
class Unit:
    """Heads (and pairs) that share one rank: members are (site, pair, head)."""

    members: tuple[tuple[str, SeamName, int], ...]
    d: int

    def pooled(self, spectra: Mapping[str, SiteSpectra], pair: SeamName | None = None) -> Tensor:
        """Root mean square over the members' spectra of one pair (or both)."""
        rows = [spectra[s][p].values[h] for s, p, h in self.members if pair in (None, p)]
        return torch.stack(rows).square().mean(dim=0).sqrt()

    def cost(self, spectra: Mapping[str, SiteSpectra]) -> int:
        """Parameters that one rank of this unit takes."""
        return sum(spectra[s][p].cost for s, p, _ in self.members)

    def step(self, spectra: Mapping[str, SiteSpectra], multiple: int) -> int:
        """Ranks of this unit are multiples of this, or full."""
        return lcm(multiple, *(spectra[s][p].step for s, p, _ in self.members))

    def least(self, spectra: Mapping[str, SiteSpectra], multiple: int) -> int:
        """The smallest rank of this unit: nothing, where all members allow that, or one step."""
        if all(spectra[s][p].least == 0 for s, p, _ in self.members):
            return 0
        return min(self.step(spectra, multiple), self.d)


def energy_share(values: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Return ``s² / Σ s²`` along the last axis; zero where the whole spectrum is zero."""
    squared = values.square()
    total = squared.sum(dim=-1, keepdim=True)
    return squared / torch.where(total > 0, total, torch.ones_like(total))


def dropped_share(spectrum: Tensor, ranks: Sequence[int]) -> float:
    """Return the share of a pair's energy, over all its heads, that these ranks drop."""
    energies = spectrum.square()
    gone = torch.arange(spectrum.shape[1]) >= torch.tensor(ranks)[:, None]
    whole = float(energies.sum())
    return float(energies[gone].sum()) / whole if whole > 0 else 0.0


def make_units(spectra: Mapping[str, SiteSpectra], layout: Layout) -> list[Unit]:
    """Return the units of every site under ``layout``."""
    if layout == "model":
        return _units_of_model(spectra)
    units: list[Unit] = []
    for site, pairs in spectra.items():
        groups: list[list[tuple[str, SeamName, int]]] = []
        for pair, spectrum in pairs.items():
            members = [(site, pair, head) for head in range(spectrum.values.shape[0])]
            groups.extend([[member] for member in members] if layout == "ragged" else [members])
        if layout == "tied" and groups:
            groups = [[member for group in groups for member in group]]
        for group in groups:
            first_site, first_pair, _ = group[0]
            d = spectra[first_site][first_pair].values.shape[1]
            units.append(Unit(tuple(group), d))
    return units


def _units_of_model(spectra: Mapping[str, SiteSpectra]) -> list[Unit]:
    groups: dict[tuple[SeamName, int], list[tuple[str, SeamName, int]]] = {}
    for site, pairs in spectra.items():
        for pair, spectrum in pairs.items():
            heads, d = spectrum.values.shape
            groups.setdefault((pair, d), []).extend((site, pair, head) for head in range(heads))
    return [Unit(tuple(group), d) for (_, d), group in groups.items()]


def pairs_of(unit: Unit) -> Sequence[SeamName]:
    """Return which pairs the members of ``unit`` belong to, in their order."""
    return [*dict.fromkeys(pair for _, pair, _ in unit.members)]


def spread(units: Sequence[Unit], ranks: Sequence[int]) -> Ranks:
    """Give every member of a unit the unit's rank."""
    result: Ranks = {}
    for unit, rank in zip(units, ranks, strict=True):
        for site, pair, _ in unit.members:  # members come in head order
            result.setdefault(site, {}).setdefault(pair, []).append(rank)
    return result
