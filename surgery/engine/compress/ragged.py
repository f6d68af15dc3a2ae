"""To each block its own width: all blocks are priced on the original, then the cheapest goes.

Of a block only its prices are kept, f numbers; the moments behind them are summed again when it
is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from surgery.architectures.feed_forward import FeedForwardSite, feed_forward_seam
from surgery.checkpoint.transaction import Transaction
from surgery.engine.compress.attention import NAME, AttentionPart
from surgery.engine.compress.fit import eliminated, watched
from surgery.engine.compress.minded import Minded
from surgery.engine.compress.plan import CompressPlan
from surgery.engine.measure.input_run import InputRun
from surgery.events import Progress
from surgery.methods.neurons import costs_of
from surgery.methods.widths import WidthCosts, allowed_widths, choose_widths


def with_own_widths(
    plan: CompressPlan,
    run: InputRun,
    minded: Minded,
    attention: AttentionPart | None,
    transaction: Transaction,
    progress: Progress,
) -> tuple[CompressPlan, float]:
    """Return the plan with the width of every block, and what that is expected to cost.

    What a width costs is how much the model's output minds it, to first order: so blocks compare
    with each other, and with attention, which is cut where that shares the budget.

    Args:
        plan: What is asked for.
        run: The model and its input.
        minded: What the output minds of every block.
        attention: Its part, where it shares the budget.
        transaction: Keeps the prices of every block as they are found.
        progress: Called with :class:`surgery.events.Event`.
    """
    known = {site.path for site in plan.sites if transaction.done(_key(site))}
    for site, moments in watched(plan, run, progress, known):
        found = eliminated(plan, site, moments, minded)
        transaction.spill(_key(site), {"prices": found.prices})
    blocks: dict[str, WidthCosts] = {}
    for site in plan.sites:
        widths = allowed_widths(site.neurons, plan.options.multiple)
        costs = costs_of(transaction.unspill(_key(site))["prices"])[widths].tolist()
        blocks[site.path] = WidthCosts(widths, costs, feed_forward_seam(site).cost)
    if attention is not None:
        blocks[NAME] = attention.price(minded, transaction, progress)
    _check_enough(blocks, plan)
    chosen = choose_widths(blocks, plan.wanted)
    expected = sum(block.costs[block.widths.index(chosen[path])] for path, block in blocks.items())
    if attention is not None:
        attention.cut_to(chosen.pop(NAME), transaction)
    return replace(plan, widths=chosen), expected


def _check_enough(blocks: Mapping[str, WidthCosts], plan: CompressPlan) -> None:
    """Refuse to remove more than all parts hold."""
    most = sum((one.widths[0] - one.widths[-1]) * one.parameters for one in blocks.values())
    if most < plan.wanted:
        raise plan.goal.too_much(most)


def _key(site: FeedForwardSite) -> str:
    return f"neurons:{site.path}"
