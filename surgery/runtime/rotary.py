"""The rotary families: LLaMA and whatever has its projections, with norms behind q and k or not.

Queries and keys are rotated by position: they get narrower by whole frequency pairs only, and
every head rotates by the frequencies it keeps. A norm behind them sees every number of a query,
so there they keep their widths. The families differ in what their modelling files call by the
same names, so one class made on the fly from the stock one runs each.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.models.auto.configuration_auto import model_type_to_module_name

from .attention import RestructuredAttention, dense_module, replace_module, resized
from .errors import LoadError
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
        self._widths = [layout.queries.total, layout.keys.total, layout.values.total]
        if hasattr(dense, "qkv_proj"):
            self.qkv_proj = resized(dense.qkv_proj, outputs=sum(self._widths))
        else:
            for name, width in zip(("q_proj", "k_proj", "v_proj"), self._widths, strict=True):
                setattr(self, name, resized(getattr(dense, name), outputs=width))
        self.o_proj = resized(dense.o_proj, inputs=layout.contexts.total)
        for name in ("q_norm", "k_norm"):
            if hasattr(dense, name):
                setattr(self, name, getattr(dense, name))

    def _window(self: Any) -> dict[str, int | None]:
        """Keyword arguments that tell the attention implementation of a sliding window."""
        if hasattr(self, "sliding_window"):
            return {"sliding_window": self.sliding_window}
        if hasattr(type(self.config), "sliding_window"):
            return {"sliding_window": self.config.sliding_window}
        return {}

    def _projected(self: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return packed queries, keys and values."""
        if hasattr(self, "qkv_proj"):
            query, key, value = self.qkv_proj(hidden_states).split(self._widths, dim=-1)
            return query, key, value
        return self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)

    def _by_head(self: Any, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and keys by head, (B, H, T, rank) and (B, G, T, rank), before RoPE."""
        norms = hasattr(self, "q_norm")
        at_once = norms and self.q_norm.weight.numel() == query.shape[-1]  # over all heads
        if at_once:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = self.layout.queries.unpack(query), self.layout.keys.unpack(key)
        return (self.q_norm(query), self.k_norm(key)) if norms and not at_once else (query, key)

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
        query, key, value = self._projected(hidden_states)
        query, key = self._by_head(query, key)
        if self._turns(self):
            query, key = layout.frequencies.rotate(self._rotate, query, key, *position_embeddings)

        if layout.uniform:
            value = layout.values.unpack(value)
        else:  # rotation needed them by head, a ragged block's cache wants them packed
            query = self._packed(layout.queries.pack(query.transpose(1, 2)))
            key, value = self._to_cache(layout.keys.pack(key.transpose(1, 2)), value)
        key, value = self._cached(cache, key, value)

        context, weights = self._attend(
            query,
            key,
            value,
            attention_mask,
            self._eager,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **self._window(),
            **self._cap(),
            **passed_on,
        )
        dropped = getattr(self, "residual_dropout", 0.0) if self.training else 0.0
        return F.dropout(self.o_proj(context), dropped), weights

    @staticmethod
    def _turns(module: Any) -> bool:
        """Whether this layer rotates its queries and keys."""
        return bool(getattr(module, "use_rope", True))

    def _cap(self) -> dict[str, float]:
        """Keyword arguments for an implementation that caps the scores."""
        cap = getattr(self, "attn_logit_softcapping", None)
        return {} if cap is None else {"softcap": cap}

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class has no importable name: copies and pickles make it anew from the stock class.
        mro = type(self).__mro__
        return _blank_heads, (mro[mro.index(RestructuredAttention) + 1],), self.__dict__


@cache
def rotary_class(stock: Any) -> type[RotaryHeads]:
    """Return the subclass of a family's attention that runs on packed heads."""
    family = import_module(stock.__module__)
    body = {
        "__doc__": f"{stock.__name__} on packed heads.",
        "__module__": __name__,
        "_eager": staticmethod(family.eager_attention_forward),
        "_rotate": staticmethod(family.apply_rotary_pos_emb),
    }
    return type(f"Restructured{stock.__name__}", (RotaryHeads, stock), body)


def _blank_heads(stock: Any) -> RotaryHeads:
    restructured = rotary_class(stock)
    return restructured.__new__(restructured)


def rotary_attention(model_type: str) -> type[nn.Module]:
    """Return the attention class of a family whose modelling file has one."""
    name = model_type_to_module_name(model_type)
    family = import_module(f"transformers.models.{name}.modeling_{name}")
    own = (
        one for one in vars(family).values() if getattr(one, "__module__", "") == family.__name__
    )
    return cast(type[nn.Module], next(o for o in own if o.__name__.endswith("Attention")))


def swap_rotary(model: nn.Module, path: str, layout: HeadLayout) -> None:
    """Put a restructured module in the place of the rotary attention at ``path``.

    Raises:
        LoadError: If queries and keys are narrower, and it is not said by which frequencies, or
            there is a norm behind them.
    """
    kind = rotary_attention(cast(Any, model).config.model_type)
    dense: Any = dense_module(model, path, (kind,))
    config, full = dense.config, dense.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    layout.check(path, heads, kv_heads, full, rotary=RotaryHeads._turns(dense))
    rope = getattr(config, "rope_parameters", None) or {}
    partial = rope.get("partial_rotary_factor", 1.0) != 1.0
    narrower = {*layout.ranks.qk} != {full} or (partial and layout.ranks.pairs is not None)
    if narrower and (partial or hasattr(dense, "q_norm")):
        which = "turned in part" if partial else "behind a norm"
        raise LoadError(
            f"Queries and keys {which} stay as they are.",
            where=path,
            found=f"qk ranks {list(layout.ranks.qk)}",
            expected=f"the head dimension {full}",
        )
    made: Any = rotary_class(cast(Any, kind))
    replace_module(model, path, made(dense, layout))
