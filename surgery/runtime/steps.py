"""Attention of one new token to what is cached, as plain products over the ranks themselves.

One query reads every cached number once and does little with it, so copying the cache into
another form, or padding it, costs more than all of attention. Two widths need no padding here.
Ragged heads are read as they are cached, packed: each query head's row is as wide as the whole
cache, zero but in its own columns. The products with zeros are cheaper than a copy.

Notation: B batch, S key length, H query heads, G key/value heads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .groups import ExecutedWidths
from .heads import HeadLayout, SiteRanks
from .packing import Index


def token_widths(ranks: SiteRanks) -> tuple[ExecutedWidths, ...]:
    """Return the widths that each key/value head of a block runs at for one new token."""
    ragged = len({*ranks.qk}) > 1 or len({*ranks.vo}) > 1
    width = ExecutedWidths(sum(ranks.qk), sum(ranks.vo)) if ragged else None
    return tuple(width or ExecutedWidths(*each) for each in zip(ranks.qk, ranks.vo, strict=True))


class TokenStep:
    """Attention of a single query position of one block.

    Args:
        layout: Ranks of the block.
    """

    def __init__(self, layout: HeadLayout) -> None:
        self._layout = layout
        self._spread = Index(_columns(layout.ranks.qk, layout.groups))
        self._own = Index(_columns(layout.ranks.vo, layout.groups))

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
    ) -> tuple[Tensor, Tensor]:
        """Return the contexts as o's input, and the attention weights.

        ``(B, 1, sum over query heads of v ranks)`` and ``(B, H, 1, S)``.

        Args:
            query: ``(B, H, 1, rank)`` of a uniform block, ``(B, 1, 1, sum of ranks)`` of a ragged.
            key: Likewise, ``(B, G, S, rank)`` or ``(B, 1, S, sum of ranks)``.
            value: Likewise.
            mask: Broadcast to ``(B, H, 1, S)``: boolean, true where attended to, or added.
            scaling: Factor of the scores.
        """
        batch, shared, length, width = key.shape
        uniform = self._layout.uniform
        if not uniform:
            rows = query.new_zeros(batch, self._layout.heads * width)
            query = rows.index_copy_(-1, self._spread.on(rows.device), query.flatten(1))
        query = query.reshape(batch, shared, -1, width)

        scores = (query @ key.transpose(2, 3)).view(batch, -1, 1, length) * scaling
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        elif mask is not None:
            scores = scores + mask
        weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        weights = weights.to(value.dtype)

        contexts = (weights.view(batch, shared, -1, length) @ value).flatten(1)[:, None]
        return contexts if uniform else contexts[..., self._own.on(contexts.device)], weights


def _columns(ranks: tuple[int, ...], groups: int) -> list[int]:
    """Return where each query head's columns lie in rows that are all as wide as the cache."""
    starts = [sum(ranks[:head]) for head in range(len(ranks))]
    return [
        (head * groups + i) * sum(ranks) + start + column
        for head, (start, rank) in enumerate(zip(starts, ranks, strict=True))
        for i in range(groups)
        for column in range(rank)
    ]
