"""GPT-2: q, k and v fused in one transposed map, whose three parts differ in width."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, eager_attention_forward
from transformers.pytorch_utils import Conv1D

from .attention import RestructuredAttention, dense_module, replace_module
from .errors import LoadError
from .heads import HeadLayout


class RestructuredGPT2Attention(RestructuredAttention, GPT2Attention):
    """GPT-2's self-attention on packed heads.

    Args:
        dense: The stock module this one takes the place of.
        layout: Ranks of the block.
    """

    TAKES = ("hidden_states", "cache", "attention_mask")

    def __init__(self, dense: GPT2Attention, layout: HeadLayout) -> None:
        super().__init__(dense.config, layer_idx=dense.layer_idx)  # type: ignore[no-untyped-call]
        self._arrange(dense, layout)
        self.parts = [layout.queries.total, layout.keys.total, layout.values.total]
        self.c_attn = _conv1d(dense.c_attn, self.embed_dim, sum(self.parts))
        self.c_proj = _conv1d(dense.c_proj, layout.contexts.total, self.embed_dim)

    def _run(
        self,
        *,
        hidden_states: Tensor,
        cache: Any = None,  # Cache | None
        attention_mask: Tensor | None = None,
        passed_on: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from ``hidden_states (B, T, d)`` to itself and to what is cached."""
        query, key, value = self.c_attn(hidden_states).split(self.parts, dim=2)
        query = self._packed(query)
        key, value = self._to_cache(key, value)
        key, value = self._cached(cache, key, value)
        context, weights = self._attend(
            query,
            key,
            value,
            attention_mask,
            _upcast_attention if self.reorder_and_upcast_attn else eager_attention_forward,
            dropout=self.attn_dropout.p if self.training else 0.0,
            scaling=self.scaling,
            **passed_on,
        )
        # Conv1D flattens its input, and cannot where no head has values: then o's bias is left.
        none = self.layout.contexts.total == 0
        out = self.c_proj.bias.expand(*context.shape[:2], -1) if none else self.c_proj(context)
        return self.resid_dropout(out), weights


def _upcast_attention(
    module: GPT2Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """GPT-2's eager attention with scores in float32 (``reorder_and_upcast_attn``)."""
    upcast: Any = module._upcast_and_reordered_attn
    return cast(tuple[Tensor, Tensor], upcast(query, key, value, attention_mask))


def _conv1d(like: Conv1D, inputs: int, outputs: int) -> Conv1D:
    """Return an unloaded transposed map of the given widths."""
    made = Conv1D(outputs, inputs)  # type: ignore[no-untyped-call]
    return made.to(like.weight.device, like.weight.dtype)


def swap_gpt2(model: nn.Module, path: str, layout: HeadLayout) -> None:
    """Put a restructured module in the place of the GPT-2 attention at ``path``.

    Raises:
        LoadError: If it is a cross-attention.
    """
    dense = cast(GPT2Attention, dense_module(model, path, (GPT2Attention,)))
    if dense.is_cross_attention:
        raise LoadError("GPT-2's cross-attention cannot be restructured.", where=path)
    layout.check(path, dense.num_heads, dense.num_heads, dense.head_dim)
    replace_module(model, path, RestructuredGPT2Attention(dense, layout))
