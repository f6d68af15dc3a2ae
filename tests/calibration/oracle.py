"""Moments from weights, one position at a time: loops, complex rotations, explicit softmaxes.

The only things taken from the model that is measured are its weights, and the hidden states that
enter each attention block. Nothing here shares code with the package.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from surgery.architectures import ARCHITECTURES, AttentionSite, Config, attention_sites


def sites_of(model: Any) -> tuple[AttentionSite, ...]:
    family = ARCHITECTURES[model.config.model_type]
    name = next(iter(model.state_dict()))
    prefix = next(p for p in (*family.prefixes, "") if name.startswith(p))
    return attention_sites(family, Config(family, model.config.to_dict(), "test"), prefix)


@contextmanager
def block_inputs(model: Any, sites: tuple[AttentionSite, ...]) -> Iterator[dict[str, list[Any]]]:
    """Record (hidden states, encoder states or nothing) of every call of every block."""
    seen: dict[str, list[Any]] = {site.path: [] for site in sites}
    handles = []
    for site in sites:

        def keep(module: nn.Module, args: Any, kwargs: Any, path: str = site.path) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            other = kwargs.get("key_value_states")
            seen[path].append(
                (hidden.double(), hidden.double() if other is None else other.double())
            )

        module = model.get_submodule(site.path)
        handles.append(module.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def heads_of(model: Any, site: AttentionSite, role: str, x: Tensor) -> Tensor:
    """(T, width) -> (T, heads, d), with the projection's bias, in float64."""
    stored = site.projection(role)  # type: ignore[arg-type]
    state = model.state_dict()
    weight = state[stored.weight].double()
    weight = weight.T if stored.transposed else weight
    bias = torch.zeros(weight.shape[0]) if stored.bias is None else state[stored.bias]
    fused = site.fused(role)  # type: ignore[arg-type]
    start = sum(site.projection(each).out_features for each in fused[: fused.index(role)])  # type: ignore[arg-type]
    rows = slice(start, start + stored.out_features)
    out = x @ weight[rows].T + bias.double()[rows]
    if stored.norm is None:
        return out.reshape(len(x), -1, site.head_dim)
    gain, epsilon = state[f"{stored.norm}.weight"].double(), model.config.rms_norm_eps
    gain = gain + ("gemma" in model.config.model_type)
    rows_of = out.reshape(-1, len(gain))  # of one head, or of all at once
    normed = [gain * row / ((row * row).mean() + epsilon).sqrt() for row in rows_of]
    return torch.stack(normed).reshape(len(x), -1, site.head_dim)


def rotated(heads: Tensor, theta: float, part: float = 1.0) -> Tensor:
    """Turn the pair (i, i + d/2) at position t by t·theta^(-2i/d), as complex numbers.

    Where only a part of each head is turned, d is as wide as that.
    """
    d = int(heads.shape[-1] * part)
    turned = heads.clone()
    for t in range(heads.shape[0]):
        for i in range(d // 2):
            angle = torch.tensor(t * theta ** (-2 * i / d), dtype=torch.float64)
            z = torch.complex(heads[t, :, i], heads[t, :, i + d // 2]) * torch.exp(1j * angle)
            turned[t, :, i], turned[t, :, i + d // 2] = z.real, z.imag
    return turned


@dataclass
class Naive:
    """Weighted sums of one block."""

    site: AttentionSite
    q: Any = 0.0
    k: Any = 0.0
    c: Any = 0.0
    queries: float = 0.0
    sequences: int = 0
    keys: float = field(default=0.0)

    def add(
        self, model: Any, x: Tensor, y: Tensor, query_weights: list[float], key_weights: list[float]
    ) -> None:
        """Add one sequence: hidden states x (T, width) of queries, y (S, width) of keys."""
        site = self.site
        q, k, v = (
            heads_of(model, site, role, states) for role, states in (("q", x), ("k", y), ("v", y))
        )
        config = model.config
        kind = (getattr(config, "layer_types", None) or {site.layer: None})[site.layer]
        scale = getattr(config, "query_pre_attn_scalar", site.head_dim) ** -0.5
        scale = getattr(config, "attention_multiplier", scale)
        cap = getattr(config, "attn_logit_softcapping", None)
        if "rope" in site.between:
            rope = config.rope_parameters
            theta = float(rope.get(kind, rope)["rope_theta"])
            part = rope.get("partial_rotary_factor", 1.0)
            q, k = rotated(q, theta, part), rotated(k, theta, part)
        window = getattr(config, "sliding_window", None)
        if not getattr(config, "use_sliding_window", True) or kind == "full_attention":
            window = None
        no_bias = heads_of(model, site, "v", torch.zeros(1, y.shape[1], dtype=torch.float64))[0]
        if site.o.bias is None:  # nothing there to take v's bias: it stays in the contexts
            no_bias = torch.zeros_like(no_bias)
        for t, weight in enumerate(query_weights):
            for h in range(site.heads):
                g = h // site.groups
                scores = k[:, g] @ q[t, h] * scale
                scores = scores if cap is None else cap * (scores / cap).tanh()
                for s in range(len(scores)):
                    hidden = site.causal and (s > t or (window is not None and s <= t - window))
                    if hidden:
                        scores[s] = -torch.inf
                context = scores.softmax(dim=0) @ v[:, g] - no_bias[g]
                where = torch.zeros(site.kv_heads, 1, 1, dtype=torch.float64)
                where[g] = weight / site.groups
                self.q = self.q + where * torch.outer(q[t, h], q[t, h])
                self.c = self.c + where * torch.outer(context, context)
        total, count = sum(key_weights), sum(query_weights)
        self.queries += count
        if total == 0 or count == 0:
            return
        self.sequences += 1
        self.keys += count
        for g in range(site.kv_heads):
            mean = sum(w * k[s, g] for s, w in enumerate(key_weights)) / total
            where = torch.zeros(site.kv_heads, 1, 1, dtype=torch.float64)
            where[g] = count / total
            for s, w in enumerate(key_weights):
                self.k = self.k + where * w * torch.outer(k[s, g] - mean, k[s, g] - mean)

    def means(self) -> dict[str, Tensor]:
        return {
            "q": self.q / self.queries,
            "k": self.k / self.keys,
            "c": self.c / self.queries,
        }


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


class Letters:
    """A tokenizer of letters, with a beginning-of-text token; works for Whisper's words too."""

    all_special_ids = (0, 1, 2)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        start = [] if _.get("add_special_tokens") is False else [1]
        return {"input_ids": [*start, *(3 + ord(letter) % 45 for letter in text)]}
