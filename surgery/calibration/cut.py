"""Try a cut on the running model: hooks that do to queries and contexts what the cut would do.

Nothing is written and no weight is touched. A pair whose vectors become ``T_l L`` and ``T_r N``,
of which the first r are kept, computes with ``P = T_lᵀ T_r`` over those r rows what it computed
with the identity before: scores ``qᵀ P k`` and contexts ``P c``. P is d×d a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from surgery.architectures.base import AttentionSite
from surgery.calibration.modules import AttentionModules
from surgery.methods import PairDecomposition


@dataclass(frozen=True, eq=False)
class OutputChange:
    """What is added to a block's output projection (see :mod:`surgery.calibration.refit`).

    Attributes:
        weight: Added to the weight, one row an output, one column a context number of each head.
        bias: Added to the bias, where there is one.
    """

    weight: Float64[Tensor, "w n"]
    bias: Float64[Tensor, " w"] | None


@dataclass(frozen=True, eq=False)
class SiteCut:
    """What becomes of one block; ``None`` leaves a pair as it is.

    Attributes:
        qk: P of the scores, per key/value head.
        vo: P of the contexts, per key/value head.
        output: What is added to the output projection.
    """

    qk: Float64[Tensor, "kv d d"] | None = None
    vo: Float64[Tensor, "kv d d"] | None = None
    output: OutputChange | None = None

    @classmethod
    def of(cls, products: Mapping[str, Float64[Tensor, "kv d d"]]) -> SiteCut:
        """Return the cut whose pairs have these P, by name."""
        return cls(products.get("qk"), products.get("vo"))


def kept_product(pair: PairDecomposition, ranks: Sequence[int]) -> Float64[Tensor, "kv d d"]:
    """Return P where each head keeps the first so many of its vectors.

    Raises:
        ValueError: A RoPE frequency would lose one of its two rows.
    """
    kv, d = pair.spectrum.shape
    if any(rank % pair.step and rank != d for rank in ranks):
        raise ValueError(f"ranks {list(ranks)} split pairs of rows")
    kept = torch.arange(d) < torch.tensor(ranks)[:, None]
    if pair.left is not None and pair.right is not None:
        return pair.left.mT @ (kept[..., None] * pair.right)
    if pair.order is not None:
        kept = torch.zeros(kv, d, dtype=torch.bool).scatter(1, pair.order, kept)
    return torch.diag_embed(kept.to(pair.spectrum))


@contextmanager
def cut_heads(
    model: nn.Module, sites: Sequence[AttentionSite], cuts: Mapping[str, SiteCut]
) -> Iterator[None]:
    """Run the model as if its heads had been cut; leave it as it was.

    Args:
        model: A stock transformers model, dense.
        sites: Its blocks.
        cuts: By the block's path; other blocks are left alone.

    Raises:
        UsageError: The model does not have a block, or has it restructured.
    """
    handles: list[RemovableHandle] = []
    try:
        for site in sites:
            if (cut := cuts.get(site.path)) is not None:
                handles += _attach(AttentionModules(model, site), cut)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attach(modules: AttentionModules, cut: SiteCut) -> list[RemovableHandle]:
    site, handles = modules.site, []
    if cut.qk is not None:
        of_queries = cut.qk.repeat_interleave(site.groups, dim=0)

        def scores(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
            queries = modules.part(output, "q")
            return modules.with_part(output, "q", _per_head(queries, of_queries))

        handles.append(modules.projections["q"].register_forward_hook(scores))
    if cut.vo is not None:
        of_contexts = cut.vo.mT.repeat_interleave(site.groups, dim=0)
        bias = modules.absorbed_bias()

        def contexts(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            context, *rest = args
            if bias is None:
                return (_per_head(context, of_contexts), *rest)
            shift = bias.repeat_interleave(site.groups, dim=0).flatten().to(context)
            return (_per_head(context - shift, of_contexts) + shift, *rest)

        handles.append(modules.projections["o"].register_forward_pre_hook(contexts))
    if (change := cut.output) is not None:

        def outputs(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            added: Tensor = args[0] @ change.weight.to(output).T
            return output + (added if change.bias is None else added + change.bias.to(output))

        handles.append(modules.projections["o"].register_forward_hook(outputs))
    return handles


def _per_head(packed: Tensor, matrices: Tensor) -> Tensor:
    """Multiply each head's rows, (..., heads·d), by its own matrix, (heads, d, d)."""
    heads = torch.unflatten(packed, -1, matrices.shape[:2])
    return torch.einsum("...hd,hde->...he", heads, matrices.to(packed)).flatten(-2)
