"""The rotary family: LLaMA, Mistral (sliding window), Qwen2 (full and sliding layers).

Queries and keys are rotated by position: they get narrower by whole frequency pairs only, and
every head rotates by the frequencies it keeps.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.models.llama import modeling_llama as llama
from transformers.models.mistral import modeling_mistral as mistral
from transformers.models.qwen2 import modeling_qwen2 as qwen2

from .attention import (
    RestructuredAttention,
    check_heads,
    dense_module,
    replace_module,
    resized,
)
from .heads import HeadLayout


class RotaryHeads(RestructuredAttention):
    """Attention on packed heads with rotary positions between projection and score.

    Args:
        dense: The stock module this one takes the place of.
        layout: Ranks of the block.
    """

    TAKES = ("hidden_states", "position_embeddings", "attention_mask", "cache")
    _eager: Any
    _rotate: Any

    def __init__(self, dense: Any, layout: HeadLayout) -> None:
        super().__init__(dense.config, dense.layer_idx)  # type: ignore[call-arg]  # the family's
        self._arrange(dense, layout)
        self.q_proj = resized(dense.q_proj, outputs=layout.queries.total)
        self.k_proj = resized(dense.k_proj, outputs=layout.keys.total)
        self.v_proj = resized(dense.v_proj, outputs=layout.values.total)
        self.o_proj = resized(dense.o_proj, inputs=layout.contexts.total)

    def _window(self) -> dict[str, int | None]:
        """Keyword arguments that tell the attention implementation of a sliding window."""
        return {}

    def _queries_keys(self: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and keys by head, (B, H, T, rank) and (B, G, T, rank), before RoPE."""
        query = self.layout.queries.unpack(self.q_proj(hidden_states))
        return query, self.layout.keys.unpack(self.k_proj(hidden_states))

    def _run(
        self: Any,
        *,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        passed_on: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from ``hidden_states (B, T, d)`` to itself and to what is cached."""
        layout: HeadLayout = self.layout
        query, key = self._queries_keys(hidden_states)
        query, key = layout.frequencies.rotate(self._rotate, query, key, *position_embeddings)

        value = self.v_proj(hidden_states)
        if layout.uniform:
            value = layout.values.unpack(value)
        else:  # rotation needed them by head, a ragged block's cache wants them packed
            query = self._packed(layout.queries.pack(query.transpose(1, 2)))
            key, value = self._to_cache(layout.keys.pack(key.transpose(1, 2)), value)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)

        context, weights = self._attend(
            query,
            key,
            value,
            attention_mask,
            self._eager,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **self._window(),
            **passed_on,
        )
        return self.o_proj(context), weights


class RestructuredLlamaAttention(RotaryHeads, llama.LlamaAttention):
    """LLaMA's attention on packed heads."""

    _eager = staticmethod(llama.eager_attention_forward)
    _rotate = staticmethod(llama.apply_rotary_pos_emb)


class RestructuredMistralAttention(RotaryHeads, mistral.MistralAttention):
    """Mistral's attention on packed heads."""

    _eager = staticmethod(mistral.eager_attention_forward)
    _rotate = staticmethod(mistral.apply_rotary_pos_emb)

    def _window(self) -> dict[str, int | None]:
        return {"sliding_window": getattr(self.config, "sliding_window", None)}


class RestructuredQwen2Attention(RotaryHeads, qwen2.Qwen2Attention):
    """Qwen2's attention on packed heads."""

    _eager = staticmethod(qwen2.eager_attention_forward)
    _rotate = staticmethod(qwen2.apply_rotary_pos_emb)

    def _window(self) -> dict[str, int | None]:
        return {"sliding_window": self.sliding_window}


RESTRUCTURED: dict[type[nn.Module], type[RotaryHeads]] = {
    llama.LlamaAttention: RestructuredLlamaAttention,
    mistral.MistralAttention: RestructuredMistralAttention,
    qwen2.Qwen2Attention: RestructuredQwen2Attention,
}


def swap_rotary(model: nn.Module, path: str, layout: HeadLayout) -> None:
    """Put a restructured module in the place of the rotary attention at ``path``.

    Raises:
        LoadError: If queries and keys are narrower, and it is not said by which frequencies.
    """
    dense: Any = dense_module(model, path, tuple(RESTRUCTURED))
    config = dense.config
    kv_heads = config.num_key_value_heads
    check_heads(path, layout, config.num_attention_heads, kv_heads, dense.head_dim, rotary=True)
    restructured = RESTRUCTURED[type(dense)](dense, layout)
    replace_module(model, path, cast(nn.Module, restructured))
