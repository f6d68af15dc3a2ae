"""BERT: self-attention, whose output projection lives in the block around it."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from transformers.models.bert.modeling_bert import (
    BertAttention,
    BertSelfAttention,
    eager_attention_forward,
)

from .attention import RestructuredAttention, dense_module, resized
from .heads import HeadLayout


class RestructuredBertSelfAttention(RestructuredAttention, BertSelfAttention):
    """BERT's self-attention on packed heads; gives contexts, o is ``output.dense`` beside it.

    Args:
        dense: The stock module this one takes the place of.
        layout: Ranks of the block.
    """

    TAKES = ("hidden_states", "attention_mask", "cache")

    def __init__(self, dense: BertSelfAttention, layout: HeadLayout) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            dense.config, is_causal=dense.is_causal, layer_idx=dense.layer_idx
        )
        self._arrange(dense, layout)
        self.query = resized(dense.query, outputs=layout.queries.total)
        self.key = resized(dense.key, outputs=layout.keys.total)
        self.value = resized(dense.value, outputs=layout.values.total)

    def _run(
        self,
        *,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        cache: Any = None,  # Cache | None
        passed_on: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from ``hidden_states (B, T, d)`` to itself and, in a decoder, what is cached."""
        query = self._packed(self.query(hidden_states))
        key, value = self._to_cache(self.key(hidden_states), self.value(hidden_states))
        key, value = self._cached(cache, key, value)
        return self._attend(
            query,
            key,
            value,
            attention_mask,
            eager_attention_forward,
            dropout=self.dropout.p if self.training else 0.0,
            scaling=self.scaling,
            **passed_on,
        )


def swap_bert(model: nn.Module, path: str, layout: HeadLayout) -> None:
    """Restructure the BERT attention block at ``path``: its projections and its output's."""
    block = cast(BertAttention, dense_module(model, path, (BertAttention,)))
    dense = cast(BertSelfAttention, dense_module(block, "self", (BertSelfAttention,)))
    heads = dense.num_attention_heads
    layout.check(path, heads, heads, dense.attention_head_size)
    block.self = RestructuredBertSelfAttention(dense, layout)
    block.output.dense = resized(block.output.dense, inputs=layout.contexts.total)
