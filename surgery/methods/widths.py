"""How wide each block is to be, where blocks differ in what their neurons cost.

Prices come block by block, a cost for every width. The cheapest parameters go first, over all
blocks, until enough are gone. Costs are taken as they come: whoever knows better what an error of
one block does to the output scales them before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


def choose_widths(blocks: Mapping[str, WidthCosts], wanted: float) -> dict[str, int]:
    """Return the width of each block once at least so many parameters are gone, less half a step.

    Steps are from one allowed width to the next. In each block they are priced by the lower convex
    hull of its costs, so that a dear step in front of cheap ones is taken together with them.

    Args:
        blocks: By name.
        wanted: Parameters that are to go.
    """
    steps: list[tuple[float, str, int, int]] = []
    for name, block in blocks.items():
        hull = lower_hull([*zip(block.widths, block.costs, strict=True)])
        for (wide, low), (narrow, high) in pairwise(hull):
            price = (high - low) / ((wide - narrow) * block.parameters)
            between = [width for width in block.widths if narrow <= width <= wide]
            for was, width in pairwise(between):
                steps.append((price, name, width, (was - width) * block.parameters))
    found, gone = {name: block.widths[0] for name, block in blocks.items()}, 0
    for _, name, width, parameters in sorted(steps, key=lambda step: step[0]):  # stable
        if gone > 0 and wanted - gone < parameters / 2:
            break
        found[name], gone = width, gone + parameters
    return found


def allowed_widths(neurons: int, multiple: int) -> list[int]:
    """Return what a block may be narrowed to: itself, and every smaller multiple down to none."""
    return [neurons, *range((neurons - 1) // multiple * multiple, -1, -multiple)]
