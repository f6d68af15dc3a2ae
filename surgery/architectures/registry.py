"""The known families, and a clear refusal of everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.architectures.base import Architecture
from surgery.architectures.families.bert import BERT
from surgery.architectures.families.gpt2 import GPT2
from surgery.architectures.families.llama import LLAMA
from surgery.architectures.families.mistral import MISTRAL
from surgery.architectures.families.qwen2 import QWEN2
from surgery.architectures.families.whisper import WHISPER
from surgery.errors import CheckpointError, UnsupportedModelError

ARCHITECTURES: Mapping[str, Architecture] = {
    family.model_type: family for family in (WHISPER, LLAMA, MISTRAL, QWEN2, BERT, GPT2)
}

_QK_NORM = "QK-norm: a norm (q_norm, k_norm) stands between the q/k projections and the score"
_SOFT_CAP = "logit soft-capping: scores pass through tanh before the softmax"
_SINKS = "attention sinks: the attention weights do not sum to one"

WHOLE = (
    "measure the model as it is with surgery evaluate; commands that operate on weights take a "
    "model whole or not at all, so split, reparam and --pairs vo are refused with it"
)
EXACT = ", though they would be exact"
"""What to do with a model that is refused; and where the reason concerns scores alone."""

INEXACT_FAMILIES: Mapping[str, str] = {
    "qwen3": _QK_NORM,
    "qwen3_moe": _QK_NORM,
    "olmo2": _QK_NORM,
    "gemma3": _QK_NORM,
    "gemma3_text": _QK_NORM,
    "cohere": _QK_NORM,
    "chameleon": _QK_NORM,
    "gemma2": _SOFT_CAP,
    "grok": _SOFT_CAP,
    "gpt_oss": _SINKS,
}
"""Families that are refused by name, with the part that makes the surgery inexact."""

INEXACT_CONFIG: Mapping[str, str] = {
    "attn_logit_softcapping": _SOFT_CAP,
    "logit_softcapping": _SOFT_CAP,
    "use_qk_norm": _QK_NORM,
    "qk_layernorm": _QK_NORM,
    "attention_sink": _SINKS,
    "off_by_one_softmax": "off-by-one softmax: the attention weights do not sum to one",
}
"""Configuration keys that change attention in any family."""

INEXACT_TENSORS: Mapping[str, str] = {
    "q_norm": _QK_NORM,
    "k_norm": _QK_NORM,
    "query_norm": _QK_NORM,
    "key_norm": _QK_NORM,
    "q_layernorm": _QK_NORM,
    "k_layernorm": _QK_NORM,
    "sinks": _SINKS,
}
"""Tensor-name components that betray the same in a checkpoint of a known family."""


def architecture_of(raw: Mapping[str, Any], *, where: str = "config.json") -> Architecture:
    """Return the family that a parsed ``config.json`` names.

    Args:
        raw: The parsed file.
        where: Its name, for messages.

    Raises:
        CheckpointError: There is no ``model_type``.
        UnsupportedModelError: The family is unknown, or known to be inexact.
    """
    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointError(
            "The configuration does not say what the model is",
            where=where,
            found=f"model_type = {model_type!r}",
            expected="a model_type such as " + ", ".join(ARCHITECTURES),
            hint="use a checkpoint in the transformers layout",
        )
    family = ARCHITECTURES.get(model_type)
    if family is not None:
        _refuse_inexact_config(family, raw, where)
        return family
    if model_type in INEXACT_FAMILIES:
        raise UnsupportedModelError(
            f"A {model_type} model is not operated on: Absorb-Decompose would not be exact",
            where=where,
            found=INEXACT_FAMILIES[model_type],
            expected="one of " + ", ".join(ARCHITECTURES),
            hint=WHOLE + EXACT,
        )
    if model_type == "mimo_v2_flash":
        raise UnsupportedModelError(
            "MiMoV2Flash is a form that surgery export writes, and none to operate on",
            where=where,
            hint="go back to the checkpoint that it was made from",
        )
    raise UnsupportedModelError(
        f"Architecture {model_type!r} is not known",
        where=where,
        found=f"model_type = {model_type!r}",
        expected="one of " + ", ".join(ARCHITECTURES),
        hint="a new family is one file of data: see docs, 'Add an architecture'",
    )


def _refuse_inexact_config(family: Architecture, raw: Mapping[str, Any], where: str) -> None:
    for key, reason in INEXACT_CONFIG.items():
        if raw.get(key):
            raise _inexact(family, f"{key} = {raw[key]!r}: {reason}", where, EXACT)
    for key, (harmless, reason) in family.inexact.items():
        if raw.get(key, harmless) != harmless:
            raise _inexact(family, f"{key} = {raw[key]!r}: {reason}", where)


def refuse_inexact_tensors(family: Architecture, names: list[str], *, where: str) -> None:
    """Refuse a checkpoint whose tensors betray a norm, a cap or sinks inside attention.

    Raises:
        UnsupportedModelError: With the first such tensor and the reason.
    """
    for name in names:
        for component in name.split("."):
            if component in INEXACT_TENSORS:
                raise _inexact(family, f"tensor {name}: {INEXACT_TENSORS[component]}", where, EXACT)


def _inexact(
    family: Architecture, found: str, where: str, though: str = ""
) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"This {family.title} model is not operated on: Absorb-Decompose would not be exact",
        where=where,
        found=found,
        expected="scores that are the plain product of q and k, and a plain softmax",
        hint=WHOLE + though,
    )
