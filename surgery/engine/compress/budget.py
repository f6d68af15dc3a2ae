"""One budget: every block is priced on the original, then the cheapest parameters go.

Of a feed-forward block only its prices are kept, and its order; the moments behind them are summed
again when it is fitted. Blocks go by their names in the whole checkpoint, whichever layers leave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial

import torch

from surgery.architectures.base import AttentionSite, tower_holding
from surgery.architectures.dropping import Layer
from surgery.architectures.feed_forward import FeedForwardSite, feed_forward_seam
from surgery.calibration.without_layers import without_layers
from surgery.calibration.witness import Scoped, Witness
from surgery.checkpoint.transaction import Transaction
from surgery.engine.compress.attention import AttentionPart
from surgery.engine.compress.fit import down_of, eliminated, eliminated_key, watched
from surgery.engine.compress.in_place import narrowed
from surgery.engine.compress.minded import Minded
from surgery.engine.compress.plan import CompressPlan, make_plan
from surgery.engine.measure.input_run import InputRun
from surgery.engine.measure.noted import noted, number
from surgery.events import Event, Progress
from surgery.methods.neuron_refit import NarrowDown, narrow
from surgery.methods.neurons import costs_of
from surgery.methods.widths import Step, WidthCosts, allowed_widths, cheapest_steps

STAGE = "Trying without blocks"
Site = FeedForwardSite | AttentionSite
Kind = type[FeedForwardSite] | type[AttentionSite]


@dataclass(frozen=True, eq=False)
class Choice:
    """What is to become of every block.

    Attributes:
        plan: With the layers that leave, and the width of every block that stays.
        left: What stays of each block, by its name in the whole checkpoint: neurons, or parameters.
        steps: What went of blocks, in order.
        expected: What all of it is expected to do to the model's output.
    """

    plan: CompressPlan
    left: Mapping[str, int]
    steps: list[Step]
    expected: float


class Budget:
    """What each part of a model costs, and what goes.

    Args:
        plan: What is asked for; the layers that it names have left already.
        run: The model and its input.
        minded: What the output minds of every block.
        attention: Its part, where it shares the budget.
        transaction: Keeps prices as they are found.
        progress: Called with :class:`surgery.events.Event`.

    Attributes:
        sites: Every block of the model, by its name.
        tried: Blocks that the model was run without.
    """

    def __init__(
        self,
        plan: CompressPlan,
        run: InputRun,
        minded: Minded,
        attention: AttentionPart | None,
        transaction: Transaction,
        progress: Progress,
    ) -> None:
        plan = plan.narrowed_to({site.path: site.neurons for site in plan.whole.blocks})
        self.plan, self.run, self._attention = plan, run, attention
        self._transaction, self._progress = transaction, progress
        self.tried: set[str] = set()
        every: list[Site] = [*plan.whole.blocks, *plan.whole.claims.sites]
        self.sites = {site.path: site for site in every}
        self._neurons = {plan.names[site.path]: site for site in plan.sites}
        self._blocks = self._widths(minded)
        if attention is not None:
            self._blocks |= attention.price(minded, transaction, progress)

    def _widths(self, minded: Minded) -> dict[str, WidthCosts]:
        """Return what every width of every feed-forward block costs."""
        plan, kept, blocks = self.plan, self._transaction, dict[str, WidthCosts]()
        known = {one.path for name, one in self._neurons.items() if kept.done(eliminated_key(name))}
        for site, moments in watched(plan, self.run, self._progress, known):
            found = eliminated(plan, site, moments, minded)
            tensors = {"prices": found.prices, "order": found.order}
            down, bias = down_of(plan, site)
            nothing = narrow(down, bias, moments, found.kept(0), amends=plan.options.amends)
            if nothing.bias is not None:
                tensors["constant"] = nothing.bias
            kept.spill(eliminated_key(plan.names[site.path]), tensors)
        for name, site in self._neurons.items():
            prices = kept.unspill(eliminated_key(name))["prices"]
            widths = allowed_widths(site.neurons, plan.options.multiple)
            costs = costs_of(prices)[widths].tolist()
            blocks[name] = WidthCosts(widths, costs, feed_forward_seam(site).cost)
        return blocks

    def choose(self, plan: CompressPlan, before: float = 0.0, only: Kind | None = None) -> Choice:
        """Return what goes of blocks once a plan's layers have left.

        A block that would lose more than half is run without, in the model as it is: what that does
        takes the place of what was predicted, and it is chosen again.

        Args:
            plan: With these layers gone.
            before: What that does to the output.
            only: Of which kind blocks may lose anything; default both.

        Raises:
            UsageError: Blocks do not hold what is to be removed.
        """
        there = [name for name in self._blocks if layer_of(self.sites[name]) not in plan.gone]
        able = [name for name in there if isinstance(self.sites[name], only or object)]
        steps: list[Step] = []
        while plan.wanted > 0:
            steps = _steps({name: self._blocks[name] for name in able}, plan)
            if not self.try_without({one.name: one.after for one in steps}):
                break
        left = {name: self.full(name) for name in there} | {one.name: one.after for one in steps}
        return self.at(plan, left, steps, before)

    def at(
        self,
        plan: CompressPlan,
        left: Mapping[str, int],
        steps: Sequence[Step] = (),
        before: float = 0.0,
    ) -> Choice:
        """Return what becomes of blocks of which so much stays, by their names.

        Args:
            plan: With these layers gone.
            left: Of every block that stays one of its :meth:`sizes`.
            steps: What went, in order.
            before: What layers that are gone do to the output.
        """
        expected = before + sum(self._blocks[name].cost(width) for name, width in left.items())
        emptied = self._emptied(plan, left)
        if emptied:
            gone = [*plan.gone, *emptied]
            plan = make_plan(plan.whole.source, plan.options, plan.asked, gone=gone)
        return Choice(plan.narrowed_to(left), left, list(steps), expected)

    def try_without(self, left: Mapping[str, int]) -> bool:
        """Run the model without each block of which less than half stays; whether any was new."""
        halved = [name for name, width in left.items() if 2 * width < self.full(name)]
        untried = [name for name in halved if name not in self.tried]
        for name in untried:
            self._try_without(name)
        return bool(untried)

    def sizes(self) -> dict[str, Sequence[int]]:
        """Return what may stay of each block, neurons or parameters, all of it first."""
        return {name: block.widths for name, block in self._blocks.items()}

    def full(self, name: str) -> int:
        """Return what a block has: neurons, or parameters."""
        return self._blocks[name].widths[0]

    def share(self, step: Step) -> float:
        """Return the share of a block that stays after a step, 0 to 1."""
        heads = self._attention
        silent = heads is not None and heads.is_silent(step.name, step.after)
        return 0.0 if silent else step.after / self.full(step.name)

    def damage(self, key: str, changed: Callable[[], AbstractContextManager[None]]) -> float:
        """Return what a change of the model does to its output, on the rows for trials.

        Args:
            key: What tells it from others.
            changed: Puts it in place, in a model without the layers that were named.
        """

        def measure() -> float:
            heard = self.heard  # before anything is changed
            with without_layers(self.run.model, self.plan.gone), changed():
                return heard.damage()

        return noted(self._transaction, key, measure, number)

    @cached_property
    def heard(self) -> Witness:
        """What the model says, without the layers that were named."""
        touched: list[Scoped] = [*self.plan.gone, *self.plan.sites]
        with without_layers(self.run.model, self.plan.gone):
            return self.run.witness_of(touched, self.plan.options.language)

    def _try_without(self, name: str) -> None:
        """Run the model without a block, but for the constant that it says then."""
        self._progress(Event(STAGE, len(self.tried), len(self._blocks), name))
        self.tried = self.tried | {name}  # a copy keeps what it knows
        site = self._neurons.get(name)
        changed: Callable[[], AbstractContextManager[None]]
        if site is not None:
            constant = self._transaction.unspill(eliminated_key(name)).get("constant")
            nothing = NarrowDown(torch.arange(0), torch.zeros(site.width, 0), constant)
            changed = partial(narrowed, self.run.model, [site], lambda _: nothing)
        elif self._attention is not None and self._attention.is_silent(
            name, self._blocks[name].widths[-1]
        ):
            changed = partial(self._attention.silent, name)
        else:
            return
        tried = self.damage(f"without:{name}", changed)
        self._blocks = self._blocks | {name: self._blocks[name].ending_at(tried)}

    def _emptied(self, plan: CompressPlan, left: Mapping[str, int]) -> list[Layer]:
        """Return layers of which nothing stays, not even a constant; a tower keeps one."""

        def says(name: str, site: Site) -> bool:
            if isinstance(site, FeedForwardSite):
                return left.get(name, site.neurons) > 0 or site.down.bias is not None
            heard = self._attention is None or not self._attention.is_silent(name, left.get(name))
            return heard or site.o.bias is not None or site.v.bias is not None

        stay = [layer for layer in plan.layers if layer not in plan.gone]
        alive = {
            layer_of(site)
            for name, site in self.sites.items()
            if layer_of(site) in stay and says(name, site)
        }
        return [
            layer
            for layer in stay
            if layer not in alive and layer.scope in {one.scope for one in alive}
        ]


def layer_of(site: Site) -> Layer:
    """Return the layer of a block."""
    return Layer(tower_holding(site.scope), site.layer)


def _steps(blocks: Mapping[str, WidthCosts], plan: CompressPlan) -> list[Step]:
    """Return what goes of these blocks: under layout ``model`` what the plan says."""
    if plan.options.layout == "model":
        alike = {plan.names[path]: width for path, width in plan.widths.items()}
        steps = (one.step(name, one.widths[0], alike[name]) for name, one in blocks.items())
        return [step for step in steps if step.parameters]
    most = sum((one.widths[0] - one.widths[-1]) * one.parameters for one in blocks.values())
    if most < plan.wanted:
        raise plan.goal.too_much(most)
    return cheapest_steps(blocks, plan.wanted)
