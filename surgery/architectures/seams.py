"""Which seams of an attention block can only be left as they are, and why.

A *seam* is an inner axis where some maps meet others: queries and keys (``qk``), values and outputs
(``vo``). Exactness is a seam's: what stands between q and k says nothing of v and o, nor of small
parts, which leave every product as it is.
"""

from __future__ import annotations

from typing import Any

from surgery.architectures.base import Architecture, AttentionKind

QK_NORM = (
    "QK-norm: a norm stands behind q and k, so scores are no function of the product of the two "
    "maps, and vectors left out would change every other one"
)
SOFT_CAP = "logit soft-capping: scores pass through tanh before the softmax"
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


def closed_seams(family: Architecture, kind: AttentionKind, config: Any) -> dict[str, str]:
    """Return by seam why it is closed in blocks of one kind; open ones are absent."""
    closed: dict[str, str] = {}
    if kind.q.norm or kind.k.norm:
        closed["qk"] = QK_NORM
    for key, (seams, reason) in CLOSING.items():
        if getattr(config, key, None):
            closed |= dict.fromkeys(seams, f"{key} = {getattr(config, key)!r}: {reason}")
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
