"""One budget over many heads: cut what damages the model least per parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace

from torch import Tensor

from surgery.choices.rules import Layout, Remove, SeamName
from surgery.errors import UsageError
from surgery.methods.units import (
    Ranks,
    SiteSpectra,
    Unit,
    dropped_share,
    energy_share,
    make_units,
    pairs_of,
)

SLACK = 1e-12
"""Relative rounding that decides no budget."""


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
        return _Allocation(units, _losses(spectra), spectra, multiple).cut(rule.fraction, whole)
    ranks = [unit.d for unit in units]
    for pair in dict.fromkeys(pair for unit in units for pair in pairs_of(unit)):
        chosen = [i for i, unit in enumerate(units) if pair in pairs_of(unit)]
        if any(len(pairs_of(units[i])) > 1 for i in chosen):
            raise UsageError(
                "--per-pair cuts QK and VO apart, layout 'tied' cuts them together",
                hint="use --layout ragged or block with --per-pair",
            )
        if not chosen:
            continue
        part = [units[i] for i in chosen]
        plain = {key: loss for key, loss in _plain_losses(spectra).items() if key[1] == pair}
        cut = _Allocation(part, plain, spectra, multiple)
        for i, rank in zip(chosen, cut.cut(rule.fraction, _cost_of(part, spectra)), strict=True):
            ranks[i] = rank
    return ranks


def most_removable(spectra: Mapping[str, SiteSpectra], layout: Layout, multiple: int) -> int:
    """Return how many parameters can go at most: every unit keeps its least rank."""
    return _Allocation(make_units(spectra, layout), {}, spectra, multiple).most


def predicted_damage(spectra: Mapping[str, SiteSpectra], ranks: Ranks) -> float:
    """Return the damage that cutting to these ranks is predicted to do: the sum over all pairs.

    Raises:
        ValueError: A pair loses energy, and the damage of that was not measured.
    """
    damage = 0.0
    for site, pairs in spectra.items():
        for pair, spectrum in pairs.items():
            lost = dropped_share(spectrum.values, ranks[site][pair])
            if lost == 0.0:  # trials that dropped nothing have no curve, and need none
                continue
            if spectrum.damage is None:
                raise ValueError(f"{site} {pair}: no measured damage")
            damage += spectrum.damage(lost)
    return damage


@dataclass(frozen=True)
class _Loss:
    """Energy of every component of one pair, and the damage of losing a sum of them."""

    energies: list[list[float]]
    damage: Callable[[float], float]


_Losses = dict[tuple[str, SeamName], _Loss]


def _losses(spectra: Mapping[str, SiteSpectra]) -> _Losses:
    """Damage as measured; else the sum of shares of the heads' energies."""
    losses: _Losses = {}
    for site, pairs in spectra.items():
        for pair, spectrum in pairs.items():
            energies = spectrum.values.square()
            if spectrum.damage is None:
                losses[site, pair] = _Loss(_rows(energy_share(spectrum.values)), float)
            else:
                whole = energies.sum()
                shares = energies / whole if whole > 0 else energies
                losses[site, pair] = _Loss(_rows(shares), spectrum.damage)
    return losses


def _plain_losses(spectra: Mapping[str, SiteSpectra]) -> _Losses:
    """Squared singular values, as the paper compares them."""
    return {
        (site, pair): _Loss(_rows(spectrum.values.square()), float)
        for site, pairs in spectra.items()
        for pair, spectrum in pairs.items()
    }


def _rows(energies: Tensor) -> list[list[float]]:
    """Return rows that fall: what rounding left out of order must not reorder cuts."""
    rows: list[list[float]] = energies.flip(-1).cummax(dim=-1).values.flip(-1).tolist()
    return rows


class _Allocation:
    """Steps of a few vectors each, taken in the order of their damage per parameter.

    A unit's components are sorted, so its steps come up from the last to the first: taking the
    cheapest never leaves a hole. What a step costs depends on what its pair has lost already,
    and mostly rises with it, so a step is priced again when its turn comes.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        losses: _Losses,
        spectra: Mapping[str, SiteSpectra],
        multiple: int,
    ) -> None:
        self.units = units
        self.losses = losses
        self.costs = [unit.cost(spectra) for unit in units]
        self.steps = [unit.step(spectra, multiple) for unit in units]
        self.least = [unit.least(spectra, multiple) for unit in units]
        self.ranks = [unit.d for unit in units]
        self.lost = dict.fromkeys(losses, 0.0)

    @property
    def most(self) -> int:
        """Parameters that can go at most."""
        return sum(
            cost * (unit.d - self.least[index])
            for index, (unit, cost) in enumerate(zip(self.units, self.costs, strict=True))
        )

    def cut(self, fraction: float, whole: int) -> list[int]:
        """Take steps until ``fraction`` of ``whole`` parameters is gone; return the ranks."""
        wanted, most = fraction * whole * (1 - SLACK), self.most
        if fraction * whole > most * (1 + SLACK):
            self._refuse(fraction, whole, most)
        # The rank as a tie-break keeps one unit's steps in order where prices are equal.
        queue = [
            (self._price(index), -unit.d, index)
            for index, unit in enumerate(self.units)
            if unit.d > self.least[index]
        ]
        heapify(queue)
        removed, taken = 0, []
        while queue and removed < wanted:
            price, _, index = queue[0]
            now = self._price(index)
            if now > price * (1 + SLACK):
                heapreplace(queue, (now, -self.ranks[index], index))
                continue
            heappop(queue)
            taken.append((index, self.ranks[index]))
            removed += self._take(index)
            if self.ranks[index] > self.least[index]:
                heappush(queue, (self._price(index), -self.ranks[index], index))
        self._give_back(taken, removed - wanted)
        return self.ranks

    def _after(self, index: int) -> int:
        step = self.steps[index]
        return (-(-self.ranks[index] // step) - 1) * step

    def _step_losses(self, index: int, low: int, high: int) -> dict[tuple[str, SeamName], float]:
        losses: dict[tuple[str, SeamName], float] = {}
        for site, pair, head in self.units[index].members:
            lost = sum(self.losses[site, pair].energies[head][low:high])
            losses[site, pair] = losses.get((site, pair), 0.0) + lost
        return losses

    def _price(self, index: int) -> float:
        """Return the damage of a unit's next step, per parameter."""
        low, high = self._after(index), self.ranks[index]
        damage = 0.0
        for key, lost in self._step_losses(index, low, high).items():
            price = self.losses[key].damage
            damage += price(self.lost[key] + lost) - price(self.lost[key])
        return damage / ((high - low) * self.costs[index])

    def _take(self, index: int) -> int:
        """Take a unit's next step; return the parameters that it saves."""
        low, high = self._after(index), self.ranks[index]
        for key, lost in self._step_losses(index, low, high).items():
            self.lost[key] += lost
        self.ranks[index] = low
        return (high - low) * self.costs[index]

    def _give_back(self, taken: list[tuple[int, int]], spare: float) -> None:
        """Undo steps that the budget did not need after all, the latest and dearest first."""
        needed: set[int] = set()
        for index, before in reversed(taken):
            saved = (before - self.ranks[index]) * self.costs[index]
            if index not in needed and saved <= spare:
                self.ranks[index] = before
                spare -= saved
            else:
                needed.add(index)

    def _refuse(self, fraction: float, whole: int, most: int) -> None:
        keeping = max(self.least, default=0)
        whose = {
            pair for i, unit in enumerate(self.units) if self.least[i] for pair in pairs_of(unit)
        }
        kept = f": heads keep {keeping} in {' and '.join(sorted(whose)).upper()}" if whose else ""
        raise UsageError(
            "More is to be removed than can be pruned here",
            where="--remove",
            found=f"{fraction:.2%} of {whole:,} parameters",
            expected=f"at most {most / whole:.2%}{kept}"
            if whole
            else "something to prune in this scope",
            hint="remove less, widen --scope or --seams, or lower --multiple",
        )


def _cost_of(units: Sequence[Unit], spectra: Mapping[str, SiteSpectra]) -> int:
    return sum(unit.d * unit.cost(spectra) for unit in units)
