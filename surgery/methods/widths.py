"""How wide each block is to be, where blocks differ in what their neurons cost.

Prices come block by block, a cost for every width. The cheapest parameters go first, over all
blocks, until enough are gone. Costs are taken as they come: whoever knows better what an error of
one block does to the output scales them before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from surgery.methods.hull import lower_hull


@dataclass(frozen=True)
class WidthCosts:
    """What one block may become.

    Attributes:
        widths: Those allowed, strictly falling; the first is what it has.
        costs: What each costs, in a unit that all blocks share.
        parameters: Those that go with one neuron.
    """

    widths: Sequence[int]
    costs: Sequence[float]
    parameters: int

    def cost(self, width: int) -> float:
        """Return what one of the widths costs."""
        return self.costs[self.widths.index(width)]

    def step(self, name: str, before: int, after: int) -> Step:
        """Return what goes of it from one of the widths to another."""
        parameters = (before - after) * self.parameters
        return Step(name, before, after, parameters, self.cost(after) - self.cost(before))

    def ending_at(self, tried: float) -> WidthCosts:
        """Return the same with another cost of the least width, which was tried.

        What costs differ by grows as their square does: at first they are right to first order.
        """
        last = self.costs[-1]

        def corrected(cost: float) -> float:
            share = min(1.0, cost / last) if last > 0 else 0.0
            return cost + (tried - last) * share**2

        return replace(self, costs=[*map(corrected, self.costs[:-1]), tried])


@dataclass(frozen=True)
class Step:
    """Neurons of one block that go together.

    Attributes:
        name: The block.
        before: Its width.
        after: Its width then.
        parameters: Those that go.
        cost: What that costs.
    """

    name: str
    before: int
    after: int
    parameters: int
    cost: float


def choose_widths(blocks: Mapping[str, WidthCosts], wanted: float) -> dict[str, int]:
    """Return the width of each block after :func:`cheapest_steps`."""
    last = {step.name: step.after for step in cheapest_steps(blocks, wanted)}
    return {name: last.get(name, block.widths[0]) for name, block in blocks.items()}


def cheapest_steps(blocks: Mapping[str, WidthCosts], wanted: float) -> list[Step]:
    """Return what goes, in order, until so many parameters are gone, less half a step.

    Steps are the edges of the lower convex hulls of costs: a dear step in front of cheap ones is
    taken together with them, or not. So an edge may be too long for what is still wanted. Then it
    is passed over, or what is wanted is taken of one block; whichever costs less in the end.

    Args:
        blocks: By name.
        wanted: Parameters that are to go.
    """
    edges: list[Step] = []
    for name, block in blocks.items():
        hull = lower_hull([*zip(block.widths, block.costs, strict=True)])
        edges += [block.step(name, wide, narrow) for (wide, _), (narrow, _) in pairwise(hull)]
    edges.sort(key=lambda step: step.cost / step.parameters)  # stable
    found = (_taken(blocks, edges, wanted, passing=passing) for passing in (False, True))
    return min(found, key=lambda steps: sum(step.cost for step in steps))


def _taken(
    blocks: Mapping[str, WidthCosts], edges: Sequence[Step], wanted: float, *, passing: bool
) -> list[Step]:
    at = {name: block.widths[0] for name, block in blocks.items()}
    taken, rest = list[Step](), wanted
    for edge in edges:
        if edge.parameters > rest and not passing:
            break
        if edge.parameters <= rest and at[edge.name] == edge.before:
            taken.append(edge)
            at[edge.name], rest = edge.after, rest - edge.parameters
    last = [step for name, block in blocks.items() for step in _enough(block, name, at[name], rest)]
    if rest > 0 and last:
        finest = min(
            (at[name] - max(width for width in block.widths if width < at[name])) * block.parameters
            for name, block in blocks.items()
            if at[name] > block.widths[-1]
        )
        if not taken or rest >= finest / 2:
            taken.append(min(last, key=lambda one: one.cost))
    return taken


def _enough(block: WidthCosts, name: str, at: int, rest: float) -> list[Step]:
    """Return the shortest step of one block that is enough, less half a width; none if none is."""
    below = [width for width in block.widths if width <= at]
    for wide, narrow in pairwise(below):
        if (at - narrow + (wide - narrow) / 2) * block.parameters >= rest:
            return [block.step(name, at, narrow)]
    return []


def allowed_widths(neurons: int, multiple: int) -> list[int]:
    """Return what a block may be narrowed to: itself, and every smaller multiple down to none."""
    return [neurons, *range((neurons - 1) // multiple * multiple, -1, -multiple)]
