"""Which of transformers' own classes runs a pruned decoder of the LLaMA kind smaller than dense.

Two classes can, where every head of the model has one width:

* the family's own, with a smaller ``head_dim``: one width for queries, keys and values;
* MiMoV2Flash, which has LLaMA's tensors and a ``v_head_dim`` beside it: one width for queries and
  keys, one for values.

Heads of less rank are padded with zeros up to the widest, and rotate by every frequency that any
head keeps: so a checkpoint of one rank and one set of frequencies loses nothing, and another one
keeps what the widest head leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from surgery.architectures import AttentionSite
from surgery.architectures.base import BASE, CAUSAL
from surgery.architectures.known import named_class
from surgery.export.fit import removed_neurons
from surgery.report.accounting import full_ranks, site_parameters
from surgery.runtime.heads import SiteRanks
from surgery.stored.stored import Stored

MIMO = "mimo_v2_flash"
MIMO_HEADS = {CAUSAL: "MiMoV2FlashForCausalLM", BASE: "MiMoV2FlashModel"}
"""By auto class, the class that stands for a decoder's; it has no other heads."""

STATIC = ("default", "linear", "llama3", "yarn", "longrope")
"""Kinds of RoPE whose frequencies are a table, whatever the length of the text."""


@dataclass(frozen=True)
class Native:
    """A smaller model of one head shape.

    Attributes:
        mimo: It is a MiMoV2Flash; otherwise one of the family's own class.
        head_dim: Width of queries and keys, and of values too in the family's own class.
        value_dim: Width of values.
        pairs: The RoPE frequencies that it rotates by, ascending; ``None``: all.
        full: Head dimension of the original.
        told: config.json says what scores are multiplied by; else the head dimension does.
    """

    mimo: bool
    head_dim: int
    value_dim: int
    pairs: tuple[int, ...] | None
    full: int
    told: bool = False

    @property
    def scale(self) -> float:
        """What q is multiplied by, for scores are divided by the root of another head dimension."""
        if self.told:
            return 1.0
        return float((self.head_dim / self.full) ** 0.5)

    def ranks(self, site: AttentionSite) -> SiteRanks:
        """Return the ranks one block is written at."""
        kv = site.kv_heads
        return SiteRanks(
            (self.head_dim,) * kv,
            (self.value_dim,) * kv,
            None if self.pairs is None else (self.pairs,) * kv,
        )

    def parameters(self, stored: Stored) -> int:
        """Return how many parameters the attention has."""
        return sum(site_parameters(site, self.ranks(site)) for site in stored.claims.sites)


def native(stored: Stored) -> Native | None:
    """Return the smallest form of a checkpoint in a class of transformers' own.

    The family's own class is taken where both are as small. ``None``: there is none smaller than
    dense.
    """
    if not decoder(stored) or rope_kind(stored.source.config) not in STATIC:
        return None
    forms = [own_form(stored)]
    if no_mimo(stored) is None:
        forms.append(mimo_form(stored))
    best = min(forms, key=lambda form: form.parameters(stored))  # the first of equals
    return best if best.parameters(stored) < _dense(stored) else None


def kept(stored: Stored, form: Native | None, widths: Mapping[str, int]) -> float | None:
    """Return the share of what surgery removed that a form leaves removed; ``None``: nothing was.

    Args:
        stored: The checkpoint.
        form: How it is written; ``None``: dense.
        widths: Neurons that feed-forward blocks are written with, where config.json says others.
    """
    gone, (_, still) = removed(stored), removed_neurons(stored, widths)
    if not gone:
        return None
    return (still + (0 if form is None else _dense(stored) - form.parameters(stored))) / gone


def removed(stored: Stored) -> int:
    """Return how many parameters of heads, and of blocks with a width of their own, are gone."""
    sites = stored.claims.sites
    heads = sum(site_parameters(site, _stored_ranks(stored, site)) for site in sites)
    return _dense(stored) - heads + removed_neurons(stored, {})[0]


def decoder(stored: Stored) -> bool:
    """Whether it is a decoder of the LLaMA kind, each map of attention for itself."""
    sites = stored.claims.sites
    return all("rope" in site.between and site.fused("q") == ("q",) for site in sites)


def normed(stored: Stored) -> bool:
    """Whether a norm behind queries and keys holds them, and so all heads, at their width."""
    return any(site.q.norm is not None for site in stored.claims.sites)


def rope_kind(raw: Mapping[str, Any]) -> str:
    """Return what transformers calls the RoPE of a configuration."""
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if rope.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) != 1.0:
        return "partial"
    return str(rope.get("rope_type", rope.get("type", "default")))


def no_mimo(stored: Stored) -> str | None:
    """Return why a decoder cannot be a MiMoV2Flash; ``None`` where it can."""
    raw = stored.source.config
    if mimo_class(raw) is None:
        return f"MiMoV2Flash has no {(raw.get('architectures') or ['class that is not named'])[0]}"
    if "hf" not in stored.family.exports:
        return f"MiMoV2Flash computes what no {stored.family.title} does"
    if any(site.o.bias is not None for site in stored.claims.sites):
        return "MiMoV2Flash has no bias behind attention"
    if raw.get("mlp_bias"):
        return "MiMoV2Flash has no biases in its MLPs"
    slides = getattr(stored.config, "use_sliding_window", False)
    if slides or "sliding_attention" in (raw.get("layer_types") or ()):
        return "MiMoV2Flash has another kind of sliding window"
    package = find_spec("transformers")
    if package is None or not (Path(str(package.origin)).parent / "models" / MIMO).is_dir():
        return "the installed transformers has no MiMoV2Flash"
    return None


def mimo_class(raw: Mapping[str, Any]) -> str | None:
    """Return the class of MiMoV2Flash that stands for the one a configuration names."""
    one = named_class(raw)
    autos = () if one is None else one.autos
    return next((MIMO_HEADS[auto] for auto in autos if auto in MIMO_HEADS), None)


def own_form(stored: Stored) -> Native:
    """Return the narrowest form with one width for queries, keys and values."""
    full, pairs, values = _widest(stored)
    half = full // 2
    count = max(len(pairs), -(-values // 2))
    # Frequencies that no head keeps turn zeros: any will do to make room for wider values.
    spare = [pair for pair in range(half) if pair not in pairs]
    chosen = tuple(sorted([*pairs, *spare[: count - len(pairs)]]))
    told = stored.family.score_scale is not None
    return Native(False, 2 * count, 2 * count, None if count == half else chosen, full, told)


def mimo_form(stored: Stored) -> Native:
    """Return the narrowest form with one width for queries and keys, and one for values."""
    full, pairs, values = _widest(stored)
    chosen = None if 2 * len(pairs) == full else tuple(pairs)
    return Native(True, 2 * len(pairs), values, chosen, full)


def _widest(stored: Stored) -> tuple[int, list[int], int]:
    """Return the head dimension, every frequency that any head keeps, and the largest V rank."""
    full = stored.claims.sites[0].head_dim
    pairs: set[int] = set()
    values = 1  # where no head keeps any, for a class of transformers has no heads without
    for site in stored.claims.sites:
        ranks = _stored_ranks(stored, site)
        pairs |= {pair for head in ranks.pairs or (range(full // 2),) for pair in head}
        values = max(values, *ranks.vo)
    return full, sorted(pairs), values


def _stored_ranks(stored: Stored, site: AttentionSite) -> SiteRanks:
    return stored.ranks.get(site.path, full_ranks(site))


def _dense(stored: Stored) -> int:
    return sum(site_parameters(site, full_ranks(site)) for site in stored.claims.sites)
