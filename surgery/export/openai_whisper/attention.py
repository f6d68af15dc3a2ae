"""openai-whisper's attention with heads as wide as their ranks. Importing it imports whisper."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from whisper.model import MultiHeadAttention

from surgery.architectures import AttentionSite
from surgery.runtime.attention import resized
from surgery.runtime.heads import HeadLayout, SiteRanks
from surgery.stored.stored import Stored


class NarrowAttention(MultiHeadAttention):  # type: ignore[misc]  # whisper has no types
    """Attention on packed heads.

    Keys and values are cached as the projections give them, packed: openai-whisper's hooks look
    only at how long they are. So nothing is ever cached wider than it is stored.

    Args:
        site: The block.
        ranks: What its heads keep.
    """

    def __init__(self, site: AttentionSite, ranks: SiteRanks) -> None:
        super().__init__(site.width, site.heads)
        self.layout = HeadLayout(site.heads, site.kv_heads, site.head_dim, ranks)
        stock: Any = MultiHeadAttention(site.width, site.heads)
        self.query = resized(stock.query, outputs=self.layout.queries.total)
        self.key = resized(stock.key, outputs=self.layout.keys.total)
        self.value = resized(stock.value, outputs=self.layout.values.total)
        self.out = resized(stock.out, inputs=self.layout.contexts.total)

    def qkv_attention(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, and return packed contexts and, where asked for, the scores.

        Args:
            q: ``(batch, time, sum of qk ranks)``.
            k: ``(batch, positions, sum of qk ranks)``.
            v: ``(batch, positions, sum of v ranks)``.
            mask: Added to the scores, ``(time, positions)`` and larger; causal if there is one.

        Returns:
            Contexts ``(batch, time, sum of v ranks)``, and float32 scores ``(batch, heads, time,
            positions)`` while openai-whisper has its fused kernel switched off, else ``None``.
        """
        layout, length = self.layout, q.shape[1]
        q, k, v = layout.queries.unpack(q), layout.keys.unpack(k), layout.values.unpack(v)
        scale = layout.head_dim**-0.5  # of the original heads
        scores = None
        if MultiHeadAttention.use_sdpa:
            causal = mask is not None and length > 1
            context = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
        else:
            scores = (q * scale**0.5) @ (k * scale**0.5).transpose(-1, -2)
            if mask is not None:
                scores = scores + mask[:length, :length]
            scores = scores.float()
            context = F.softmax(scores, dim=-1).to(q.dtype) @ v
            scores = scores.detach()
        return layout.contexts.pack(context.transpose(1, 2)), scores


def narrow(model: Any, stored: Stored) -> None:
    """Put narrow attention in the place of every block that was pruned; weights stay random."""
    for site in stored.claims.sites:
        if site.path in stored.ranks:
            tower = model.encoder if site.scope == "encoder" else model.decoder
            name = "cross_attn" if site.scope == "cross" else "attn"
            setattr(tower.blocks[site.layer], name, NarrowAttention(site, stored.ranks[site.path]))
