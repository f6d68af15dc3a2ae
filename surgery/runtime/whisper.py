"""Whisper: encoder self-attention, decoder self-attention, decoder cross-attention."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache
from transformers.models.whisper.modeling_whisper import WhisperAttention, eager_attention_forward

from .attention import RestructuredAttention, dense_module, replace_module, resized
from .heads import HeadLayout


class RestructuredWhisperAttention(RestructuredAttention, WhisperAttention):
    """Whisper's attention on packed heads.

    Args:
        dense: The stock module this one takes the place of.
        layout: Ranks of the block.
    """

    TAKES = ("hidden_states", "key_value_states", "cache", "attention_mask")

    def __init__(self, dense: WhisperAttention, layout: HeadLayout) -> None:
        super().__init__(
            embed_dim=dense.embed_dim,
            num_heads=dense.num_heads,
            dropout=dense.dropout,
            is_decoder=dense.is_decoder,
            bias=dense.q_proj.bias is not None,
            is_causal=dense.is_causal,
            layer_idx=dense.layer_idx,
            config=dense.config,
        )
        self._arrange(dense, layout)
        self.q_proj = resized(dense.q_proj, outputs=layout.queries.total)
        self.k_proj = resized(dense.k_proj, outputs=layout.keys.total)
        self.v_proj = resized(dense.v_proj, outputs=layout.values.total)
        self.out_proj = resized(dense.out_proj, inputs=layout.contexts.total)

    def _run(
        self,
        *,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        cache: Any = None,  # Cache | None
        attention_mask: Tensor | None = None,
        passed_on: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from ``hidden_states (B, T, d)`` to itself or to other states ``(B, S, d)``."""
        crossing = key_value_states is not None
        # The query is scaled, not the scores: Whisper's own order of rounding.
        query = self._packed(self.q_proj(hidden_states) * self.scaling)

        reusable = False
        if isinstance(cache, EncoderDecoderCache):
            both: Any = cache
            if crossing:
                reusable = bool(both.is_updated.get(self.layer_idx))
                both.is_updated[self.layer_idx] = True
                cache = both.cross_attention_cache
            else:
                cache = both.self_attention_cache

        if reusable:
            cached = cache.layers[self.layer_idx]
            key, value = cached.keys, cached.values
        else:
            states = hidden_states if key_value_states is None else key_value_states
            # As in Whisper's own module, the query decides the batch: encoder states of another
            # batch size are folded into the time axis.
            batch = hidden_states.shape[0]
            key = self.k_proj(states).reshape(batch, -1, self.layout.keys.total)
            value = self.v_proj(states).reshape(batch, key.shape[1], self.layout.values.total)
            key, value = self._to_cache(key, value)
            if cache is not None:
                key, value = cache.update(key, value, self.layer_idx)

        # Over the encoder's 1,500 frames the kernels gain more from it than the copies cost.
        context, weights = self._attend(
            query.contiguous(),
            key.contiguous(),
            value.contiguous(),
            attention_mask,
            eager_attention_forward,
            dropout=self.dropout if self.training else 0.0,
            scaling=1.0,
            **passed_on,
        )
        return self.out_proj(context), weights


def swap_whisper(model: nn.Module, path: str, layout: HeadLayout) -> None:
    """Put a restructured module in the place of the Whisper attention at ``path``."""
    dense = cast(WhisperAttention, dense_module(model, path, (WhisperAttention,)))
    layout.check(path, dense.num_heads, dense.num_heads, dense.head_dim)
    replace_module(model, path, RestructuredWhisperAttention(dense, layout))
