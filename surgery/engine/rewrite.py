"""Second pass of Absorb-Decompose: transform, cut, cast and write every block in scope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.writer import TensorSpec
from surgery.engine.decompose import load_block, pair_errors
from surgery.engine.pack import read_site, write_site
from surgery.engine.plan import Plan, SitePlan
from surgery.engine.stream import cast, stream
from surgery.events import Progress
from surgery.methods import SiteDecomposition, prepare
from surgery.report.accounting import SiteRanks, restructured

CastErrors = dict[str, dict[str, list[float]]]
"""Site path to pair to the measured relative error of each head's product as written."""


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
    progress: Progress,
) -> CastErrors:
    """Write every shard of the result into the transaction, tensor by tensor.

    Returns:
        What the cut and the cast together cost each head's products, measured on the tensors
        as written.
    """
    plans = {each.site.path: each for each in plan.sites}

    def compute(path: str) -> dict[str, Tensor]:
        tensors, cost = _restructure(plan, plans[path], decompositions[path], ranks[path])
        transaction.record(f"cast:{path}", cost)
        return tensors

    blocks = {name: path for path, each in plans.items() for name in each.site.tensors()}
    stream(plan.source, transaction, output_specs(plan, ranks), blocks, compute, progress)
    return {path: transaction.payload(f"cast:{path}") for path in plans}


def _restructure(
    plan: Plan, site_plan: SitePlan, decomposition: SiteDecomposition, ranks: SiteRanks
) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    site = site_plan.site
    weights = load_block(plan.source, site_plan)
    ready = prepare(weights, qk=site_plan.qk, vo=site_plan.vo)
    exact = write_site(decomposition.apply(ready), site, ranks)
    tensors = {name: cast(name, t, plan.output_dtype(name)) for name, t in exact.items()}
    # Reading back what is about to be written proves the packing as well as the rounding.
    written = replace(read_site(tensors.__getitem__, site, ranks), o_bias=ready.o_bias)
    cost = pair_errors(ready, written, qk=site_plan.qk, vo=site_plan.vo)
    return tensors, {pair: error.tolist() for pair, error in cost.items()}
