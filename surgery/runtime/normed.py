"""Rotary families with a norm behind queries and keys: Qwen3 (each head's), OLMo 2 (all at once).

The norm sees every number of a query, so queries and keys keep their widths; values and outputs
get narrower as in the rest of the rotary family.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from transformers.models.olmo2 import modeling_olmo2 as olmo2
from transformers.models.qwen3 import modeling_qwen3 as qwen3

from .attention import check_heads, dense_module, replace_module
from .errors import LoadError
from .heads import HeadLayout
from .rotary import RotaryHeads


class NormedHeads(RotaryHeads):
    """Attention on packed heads whose queries and keys go through a norm before they turn."""

    def __init__(self, dense: Any, layout: HeadLayout) -> None:
        super().__init__(dense, layout)
        self.q_norm, self.k_norm = dense.q_norm, dense.k_norm


class RestructuredQwen3Attention(NormedHeads, qwen3.Qwen3Attention):
    """Qwen3's attention on packed heads: each head's queries and keys are normed."""

    _eager = staticmethod(qwen3.eager_attention_forward)
    _rotate = staticmethod(qwen3.apply_rotary_pos_emb)

    def _window(self) -> dict[str, int | None]:
        return {"sliding_window": self.sliding_window}

    def _queries_keys(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        query, key = super()._queries_keys(hidden_states)
        return self.q_norm(query), self.k_norm(key)


class RestructuredOlmo2Attention(NormedHeads, olmo2.Olmo2Attention):
    """OLMo 2's attention on packed heads: queries of all heads are normed at once, as are keys."""

    _eager = staticmethod(olmo2.eager_attention_forward)
    _rotate = staticmethod(olmo2.apply_rotary_pos_emb)

    def _queries_keys(self: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        query = self.layout.queries.unpack(self.q_norm(self.q_proj(hidden_states)))
        return query, self.layout.keys.unpack(self.k_norm(self.k_proj(hidden_states)))


NORMED: dict[type[nn.Module], type[NormedHeads]] = {
    qwen3.Qwen3Attention: RestructuredQwen3Attention,
    olmo2.Olmo2Attention: RestructuredOlmo2Attention,
}


def swap_normed(model: nn.Module, path: str, layout: HeadLayout) -> None:
    """Put a restructured module in the place of the attention at ``path``.

    Raises:
        LoadError: If queries and keys are narrower: there is a norm behind them.
    """
    dense: Any = dense_module(model, path, tuple(NORMED))
    config = dense.config
    kv_heads = config.num_key_value_heads
    check_heads(path, layout, config.num_attention_heads, kv_heads, dense.head_dim, rotary=True)
    if {*layout.qk_ranks} != {dense.head_dim}:
        raise LoadError(
            "Queries and keys behind a norm cannot be narrower.",
            where=path,
            found=f"qk ranks {list(layout.qk_ranks)}",
            expected=f"the head dimension {dense.head_dim}",
        )
    replace_module(model, path, cast(nn.Module, NORMED[type(dense)](dense, layout)))
