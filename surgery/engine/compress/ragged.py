"""To each block its own width: all blocks are priced on the original, then the cheapest goes.

Of a block only its prices are kept, f numbers; the moments behind them are summed again when it
is fitted.
"""

from __future__ import annotations

from dataclasses import replace

from surgery.architectures.feed_forward import FeedForwardSite, feed_forward_seam
from surgery.checkpoint.transaction import Transaction
from surgery.engine.compress.fit import eliminated, watched
from surgery.engine.compress.plan import CompressPlan
from surgery.engine.measure.input_run import InputRun
from surgery.events import Progress
from surgery.methods.neurons import costs_of
from surgery.methods.widths import WidthCosts, allowed_widths, choose_widths


def with_own_widths(
    plan: CompressPlan, run: InputRun, transaction: Transaction, progress: Progress
) -> CompressPlan:
    """Return the plan with the width of every block, from where an interrupted run got.

    What a width costs is what the order charges: the squared error of the block's output, as it
    is added to the stream. What the output of the model minds is not asked.

    Args:
        plan: What is asked for.
        run: The model and its input.
        transaction: Keeps the prices of every block as they are found.
        progress: Called with :class:`surgery.events.Event`.
    """
    known = {site.path for site in plan.sites if transaction.done(_key(site))}
    for site, moments in watched(plan, run, progress, known):
        found = eliminated(plan, site, moments)
        transaction.spill(_key(site), {"prices": found.prices})
    blocks: dict[str, WidthCosts] = {}
    for site in plan.sites:
        widths = allowed_widths(site.neurons, plan.options.multiple)
        costs = costs_of(transaction.unspill(_key(site))["prices"])[widths]
        blocks[site.path] = WidthCosts(widths, costs.tolist(), feed_forward_seam(site).cost)
    return replace(plan, widths=choose_widths(blocks, plan.wanted))


def _key(site: FeedForwardSite) -> str:
    return f"neurons:{site.path}"
