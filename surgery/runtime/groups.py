"""Heads in groups of nearly one width, as fused attention kernels get them.

A fused kernel wants one width for queries, keys and values, and for every head of a call. (On a
CPU, SDPA at two widths falls back to a path that keeps every score and takes three times as long
as at the wider one.) So each head runs at the larger of its two ranks, and ragged heads run in a
few calls of similar widths. Notation: G key/value heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .heads import HeadLayout, SiteRanks
from .packing import Index, Packing

TILE = 16
"""Columns that a CPU multiplies at a time (float32, AVX-512): 33 take as long as 48."""
SOFTMAX = 13
"""Columns that take as long as the softmax of the scores."""
MOST = 3
"""Groups at most: each is a kernel call of its own, with fewer heads to share out."""
WORTH = 0.04
"""Share of the kernels' time that one group more has to save."""


class ExecutedWidths(NamedTuple):
    """Columns a head's score (``qk``) and context (``v``) products run over, padding included."""

    qk: int
    v: int


def width_groups(widths: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Choose which heads of a block share a call: the fewest groups that cost little more.

    Heads are sorted by width and cut where the modelled time is least, a head's time being
    :data:`SOFTMAX` plus its group's widest, in whole tiles. Times measured at 1,500 frames
    agree: 0.58 at 32 columns and 0.77 at 48, of what 64 take.

    Args:
        widths: Columns that each key/value head needs.

    Returns:
        The heads of each group, both in ascending order of width (equal ones as stored).
    """
    order = sorted(range(len(widths)), key=lambda head: widths[head])

    def cost(bounds: Sequence[int]) -> int:
        tops = ((stop - start, widths[order[stop - 1]]) for start, stop in pairwise(bounds))
        return sum(heads * (SOFTMAX - -top // TILE * TILE) for heads, top in tops)

    inner = [i for i in range(1, len(order)) if widths[order[i - 1]] < widths[order[i]]]
    chosen: tuple[int, ...] = (0, len(order))
    for count in range(1, min(MOST, len(inner) + 1)):
        best = min(((0, *cuts, len(order)) for cuts in combinations(inner, count)), key=cost)
        if cost(best) <= (1 - WORTH) * cost(chosen):
            chosen = best
    return tuple(tuple(order[start:stop]) for start, stop in pairwise(chosen))


def executed_widths(ranks: SiteRanks, *, fused: bool = True) -> tuple[ExecutedWidths, ...]:
    """Return the widths that each key/value head of a block runs at.

    Only the two products inside attention are ever padded (scores over ``qk`` columns, contexts
    over ``v``). The four projections and the KV cache always hold exactly the ranks. One new
    token is another matter: see :mod:`surgery.runtime.steps`.

    Args:
        ranks: What its heads keep.
        fused: Whether the attention implementation is a fused one, as SDPA is, the default.
            Eager attention runs every head at the block's widest QK and V ranks.
    """
    if not fused:
        return (ExecutedWidths(max(ranks.qk), max(ranks.vo)),) * len(ranks.qk)
    needed = list(map(max, ranks.qk, ranks.vo))
    found: dict[int, int] = {}
    for group in width_groups(needed):
        found |= dict.fromkeys(group, max(needed[head] for head in group))
    return tuple(ExecutedWidths(found[head], found[head]) for head in range(len(needed)))


class HeadGroups:
    """The calls of a fused kernel that one block takes, and what becomes of their results.

    Notation: B batch, T query length, S key length, H query heads, G key/value heads; group j
    has H_j query and G_j key/value heads, of width W_j.

    Args:
        layout: Ranks of the block.

    Attributes:
        heads: Query heads of each group.
    """

    def __init__(self, layout: HeadLayout) -> None:
        needed = list(map(max, layout.ranks.qk, layout.ranks.vo))
        shared = width_groups(needed)
        each = range(layout.groups)
        self.heads = [[head * len(each) + i for head in group for i in each] for group in shared]
        widths = [max(needed[head] for head in group) for group in shared]
        self._width, self._layout = max(widths), layout
        self._queries = Packing(layout.queries.ranks, groups=self.heads, widths=widths)
        self._keys = Packing(layout.ranks.qk, groups=shared, widths=widths)
        self._values = Packing(layout.ranks.vo, groups=shared, widths=widths)
        self._contexts = Packing(layout.contexts.ranks, groups=self.heads, widths=widths)
        stored = [head for group in self.heads for head in group]
        self._order = Index(sorted(range(len(stored)), key=stored.__getitem__))

    def lay_out(
        self, query: Tensor, key: Tensor, value: Tensor
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return queries ``(B, H_j, T, W_j)``, keys and values ``(B, G_j, S, W_j)`` of each group.

        Args:
            query: ``(B, H, T, rank)`` of a uniform block, ``(B, 1, T, sum of ranks)`` of a ragged.
            key: Likewise, ``(B, G, S, rank)`` or ``(B, 1, S, sum of ranks)``.
            value: Likewise.
        """
        if self._layout.uniform:
            query, key, value = (_widened(heads, self._width) for heads in (query, key, value))
            return [(query, key, value)]
        packed = ((self._queries, query), (self._keys, key), (self._values, value))
        return list(zip(*(packing.lay_out(one.squeeze(1)) for packing, one in packed), strict=True))

    def pack(self, contexts: Sequence[Tensor]) -> Tensor:
        """Return contexts ``(B, T, H_j, W_j)`` as o's input ``(B, T, sum of v ranks)``."""
        if self._layout.uniform:
            return self._layout.contexts.pack(contexts[0][..., : self._layout.values.width])
        return self._contexts.pack(*contexts)

    def order(self, weights: Sequence[Tensor | None]) -> Tensor | None:
        """Return attention weights ``(B, H_j, T, S)`` by query head, where all are given."""
        given = [each for each in weights if each is not None]
        if len(given) < len(weights) or len(given) == 1:
            return weights[0]
        return torch.cat(given, 1)[:, self._order.on(given[0].device)]

    def mask(self, mask: Tensor | None, group: int) -> Tensor | None:
        """Return the part of an attention mask that belongs to a group's query heads."""
        per_head = isinstance(mask, Tensor) and mask.dim() == 4 and mask.shape[1] > 1
        return mask[:, self.heads[group]] if mask is not None and per_head else mask


def _widened(heads: Tensor, width: int) -> Tensor:
    """Return heads with zeros behind; nothing sees them."""
    missing = width - heads.shape[-1]
    return F.pad(heads, (0, missing)) if missing else heads
