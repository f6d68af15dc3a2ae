"""Which seams of an attention block can only be left as they are, and why.

A *seam* is an inner axis where some maps meet others: queries and keys (``qk``), values and outputs
(``vo``); in :mod:`.feed_forward` neurons and what reads them (``ffn``). Exactness is a seam's: what
stands between q and k says nothing of v and o, nor of small parts, which leave every product as it
is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.architectures.base import (
    Architecture,
    AttentionKind,
    AttentionSite,
    FeedForwardRole,
    Role,
)
from surgery.choices.rules import ATTENTION_SEAMS

QK_NORM = (
    "QK-norm: a norm stands behind q and k, so scores are no function of the product of the two "
    "maps, and vectors left out would change every other one"
)
SOFT_CAP = "logit soft-capping: scores pass through tanh before the softmax"
PARTIAL = (
    "partial RoPE: some rows of q and k are turned and others are not, and what is of two kinds is "
    "left whole"
)
SINKS = "attention sinks: the attention weights do not sum to one"

CLOSING = {
    "attn_logit_softcapping": (("qk",), SOFT_CAP),
    "logit_softcapping": (("qk",), SOFT_CAP),
    "use_qk_norm": (("qk",), QK_NORM),
    "qk_layernorm": (("qk",), QK_NORM),
    "attention_sink": (("qk", "vo"), SINKS),
    "off_by_one_softmax": (("qk", "vo"), SINKS),
}
"""Configuration keys that change attention in any family: the seams they close, and the reason."""

FOREIGN = {
    **dict.fromkeys(("q_norm", "k_norm", "query_norm", "key_norm"), QK_NORM),
    **dict.fromkeys(("q_layernorm", "k_layernorm"), QK_NORM),
    "sinks": SINKS,
}
"""Components of tensor names that say what a model of another family is."""

ACROSS_ROPE = (
    "RoPE turns q and k by their positions between the two maps, so their product cannot be "
    "absorbed; whole frequencies can go by what they are worth on real input (--calibrate)"
)


@dataclass(frozen=True)
class Seam:
    """One inner axis of a block: its maps meet there, in groups.

    Attributes:
        name: What budgets, reports and formats call it.
        groups: Parts that are cut each for itself: key/value heads; 1 where there are none.
        width: Vectors of a group.
        step: Vectors that only go together.
        least: Vectors of a group that stay at least.
        mixes: Whether vectors may be mixed; else some are selected as they are.
        why_not: Why it can only be left as it is; ``None``: it can be cut.
        writers: Roles of the maps whose outputs it is.
        readers: Roles of those that read it.
        cost: Parameters that one vector of one group takes, biases included.
    """

    name: str
    groups: int
    width: int
    step: int
    least: int
    mixes: bool
    why_not: str | None
    writers: tuple[Role | FeedForwardRole, ...]
    readers: tuple[Role | FeedForwardRole, ...]
    cost: int


ATTENTION: Mapping[str, tuple[tuple[Role, ...], tuple[Role, ...]]] = dict(
    zip(ATTENTION_SEAMS, ((("q",), ("k",)), (("v",), ("o",))), strict=True)
)
"""Seams of an attention block: writers and readers."""


def seams_of(site: AttentionSite) -> dict[str, Seam]:
    """Return every seam of an attention block by its name."""
    found = {}
    for name, (writers, readers) in ATTENTION.items():
        across = name == "qk" and "rope" in site.between
        found[name] = Seam(
            name=name,
            groups=site.kv_heads,
            width=site.head_dim,
            step=2 if across else 1,
            least=0 if name == "vo" else 2 if across else 1,
            mixes=not across,
            why_not=site.closed.get(name),
            writers=writers,
            readers=readers,
            cost=sum(_vector(site, role) for role in (*writers, *readers)),
        )
    return found


def _vector(site: AttentionSite, role: Role) -> int:
    """Return what one vector of one key/value head costs in one projection."""
    projection = site.projection(role)
    repeat = site.groups if role in ("q", "o") else 1
    width = projection.out_features if role == "o" else projection.in_features
    return repeat * (width + (projection.bias is not None and role != "o"))


def closed_seams(family: Architecture, kind: AttentionKind, config: Any) -> dict[str, str]:
    """Return by seam why it is closed in blocks of one kind; open ones are absent."""
    closed: dict[str, str] = {}
    if kind.q.norm or kind.k.norm:
        closed["qk"] = QK_NORM
    for key, (seams, reason) in CLOSING.items():
        if getattr(config, key, None):
            closed |= dict.fromkeys(seams, f"{key} = {getattr(config, key)!r}: {reason}")
    factor = getattr(config, "partial_rotary_factor", 1.0)
    if "rope" in kind.between and factor != 1:
        closed["qk"] = f"partial_rotary_factor = {factor!r}: {PARTIAL}"
    for key, (harmless, seam, reason) in family.closing.items():
        found = getattr(config, key, harmless)
        if found != harmless:
            closed[seam] = f"{key} = {found!r}: {reason}"
    return closed


def foreign(name: str) -> str | None:
    """Say of which kind of model a tensor is that a family has no place for; ``None``: of none."""
    reason = next((FOREIGN[part] for part in name.split(".") if part in FOREIGN), None)
    if reason is None:
        return None
    return f"{reason}. Such models have a model_type of their own: use the right config.json"
