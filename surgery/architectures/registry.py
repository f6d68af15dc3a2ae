"""The known families, and a clear refusal of everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.architectures.base import Architecture
from surgery.architectures.families.arcee import ARCEE
from surgery.architectures.families.bert import BERT
from surgery.architectures.families.gemma import GEMMA
from surgery.architectures.families.gemma2 import GEMMA2
from surgery.architectures.families.gemma3_text import GEMMA3_TEXT
from surgery.architectures.families.gpt2 import GPT2
from surgery.architectures.families.granite import GRANITE
from surgery.architectures.families.llama import LLAMA
from surgery.architectures.families.ministral import MINISTRAL
from surgery.architectures.families.mistral import MISTRAL
from surgery.architectures.families.olmo2 import OLMO2
from surgery.architectures.families.olmo3 import OLMO3
from surgery.architectures.families.phi3 import PHI3
from surgery.architectures.families.qwen2 import QWEN2
from surgery.architectures.families.qwen3 import QWEN3
from surgery.architectures.families.seed_oss import SEED_OSS
from surgery.architectures.families.smollm3 import SMOLLM3
from surgery.architectures.families.starcoder2 import STARCODER2
from surgery.architectures.families.whisper import WHISPER
from surgery.architectures.nearest import differing, nearest
from surgery.errors import CheckpointError, UnsupportedModelError

ARCHITECTURES: Mapping[str, Architecture] = {
    family.model_type: family
    for family in (
        *(WHISPER, LLAMA, MISTRAL, MINISTRAL, QWEN2, QWEN3, OLMO2, OLMO3, SMOLLM3, GEMMA, GEMMA2),
        *(GEMMA3_TEXT, GRANITE, SEED_OSS, PHI3, ARCEE, STARCODER2, GPT2, BERT),
    )
}


def architecture_of(raw: Mapping[str, Any], *, where: str = "config.json") -> Architecture:
    """Return the family that a parsed ``config.json`` names.

    Args:
        raw: The parsed file.
        where: Its name, for messages.

    Raises:
        CheckpointError: There is no ``model_type``.
        UnsupportedModelError: The family is unknown, or the model has parts that are not described.
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
        _refuse_undescribed(family, raw, where)
        return family
    if model_type == "mimo_v2_flash":
        raise UnsupportedModelError(
            "MiMoV2Flash is a form that surgery export writes, and none to operate on",
            where=where,
            hint="go back to the checkpoint that it was made from",
        )
    like = nearest(raw, ARCHITECTURES.values())
    raise UnsupportedModelError(
        f"Architecture {model_type!r} is not known",
        where=where,
        found=f"model_type = {model_type!r}; it is most like {like.title}, but "
        + differing(raw, like),
        expected="one of " + ", ".join(ARCHITECTURES),
        hint="a new family is one file of data: see docs, 'Add an architecture'",
    )


def _refuse_undescribed(family: Architecture, raw: Mapping[str, Any], where: str) -> None:
    for key, (harmless, reason) in family.undescribed.items():
        if raw.get(key) not in (None, harmless):
            raise UnsupportedModelError(
                f"This {family.title} model has parts that nothing here describes",
                where=where,
                found=f"{key} = {raw[key]!r}: {reason}",
                expected=f"{key} = {harmless!r}",
                hint="measure the model as it is with surgery evaluate",
            )
