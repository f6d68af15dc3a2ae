"""Second pass of Absorb-Decompose: transform, cut, cast and write every block in scope."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict

from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.writer import TensorSpec
from surgery.engine.cut.decompose import load_block
from surgery.engine.cut.plan import Plan, SitePlan
from surgery.events import Progress
from surgery.linalg import probed_product_errors
from surgery.methods import AttentionWeights, SiteDecomposition
from surgery.report.accounting import restructured
from surgery.runtime.heads import SiteRanks
from surgery.stored.pack import read_site, write_site
from surgery.stored.stream import Computed, cast, stream

if TYPE_CHECKING:
    from surgery.calibration.cut import OutputChange

PairErrors = dict[str, list[float]]
"""Pair to one relative Frobenius error a head."""


class BlockErrors(TypedDict):
    """What was measured on one block while it was written.

    ``exact``: all vectors kept, before cut and cast. ``written``: as written, cut and cast.
    """

    exact: PairErrors
    written: PairErrors


Errors = dict[str, BlockErrors]
"""By site path."""


def tensor_table(plan: Plan) -> dict[str, tuple[tuple[int, ...], int]]:
    """Return shape and bytes per element of every tensor of the source."""
    return {name: (info.shape, info.dtype.itemsize) for name, info in plan.source.infos.items()}


def output_specs(plan: Plan, ranks: Mapping[str, SiteRanks]) -> dict[str, list[TensorSpec]]:
    """Return name, dtype and shape of every tensor of the result, by shard."""
    shapes = restructured(tensor_table(plan), [each.site for each in plan.sites], ranks)
    return {
        shard: [TensorSpec(name, plan.output_dtype(name), shapes[name][0]) for name in names]
        for shard, names in plan.source.shards.items()
    }


def rewrite(
    plan: Plan,
    transaction: Transaction,
    decompositions: Mapping[str, SiteDecomposition],
    ranks: Mapping[str, SiteRanks],
    refitted: Mapping[str, OutputChange],
    progress: Progress,
) -> Errors:
    """Write every shard of the result into the transaction, tensor by tensor.

    Args:
        plan: What was asked for.
        transaction: Receives it.
        decompositions: How every block is cut, by its path.
        ranks: What stays of it.
        refitted: What is added to output projections, by block.
        progress: Called with :class:`surgery.events.Event`.

    Returns:
        How far each head's products are from the original's, measured on the way.
    """
    compute = restructuring(plan, decompositions, ranks, refitted)
    stream(plan.source, transaction, output_specs(plan, ranks), plan.blocks(), compute, progress)
    return block_errors(plan, transaction)


def block_errors(plan: Plan, transaction: Transaction) -> Errors:
    """Return what was measured on every block while it was written."""
    return {each.site.path: transaction.payload(f"block:{each.site.path}") for each in plan.sites}


def restructuring(
    plan: Plan,
    decompositions: Mapping[str, SiteDecomposition],
    ranks: Mapping[str, SiteRanks],
    refitted: Mapping[str, OutputChange],
) -> Callable[[str], Computed]:
    """Return what computes a block's tensors as they are written, by its path."""
    plans = {each.site.path: each for each in plan.sites}

    def compute(path: str) -> Computed:
        added = refitted.get(path)
        return _restructure(plan, plans[path], decompositions[path], ranks[path], added)

    return compute


def _restructure(
    plan: Plan,
    site_plan: SitePlan,
    decomposition: SiteDecomposition,
    ranks: SiteRanks,
    added: OutputChange | None,
) -> Computed:
    site = site_plan.site
    dense = load_block(plan.source, site_plan)
    ready = site_plan.prepare(dense)
    exact = decomposition.apply(ready)
    fitted = exact
    if added is not None:
        changed = dense.add_to_output(added.weight, added.bias)
        fitted = decomposition.apply(site_plan.prepare(changed))
    tensors = {
        name: cast(name, tensor, plan.output_dtype(name))
        for name, tensor in write_site(fitted, site, ranks).items()
    }
    # Reading back what is about to be written proves the packing as well as the rounding.
    written = read_site(tensors.__getitem__, site, ranks)
    if "qk" in site_plan.treated and ready.k_bias is None:
        written = replace(written, k_bias=None)
    if "vo" in site_plan.treated and ready.v_bias is None:
        written = replace(written, v_bias=None)
    return Computed(tensors, _errors(decomposition, ready, exact, written))


def _errors(
    decomposition: SiteDecomposition,
    ready: AttentionWeights,
    exact: AttentionWeights,
    written: AttentionWeights,
) -> BlockErrors:
    errors: BlockErrors = {"exact": {}, "written": {}}
    for pair, part in decomposition.parts.items():
        left, right = ready.factors(pair)
        results = [exact.factors(pair), written.factors(pair)]
        measured = probed_product_errors(left, right, results, part.norm)
        errors["exact"][pair], errors["written"][pair] = (each.tolist() for each in measured)
    return errors
