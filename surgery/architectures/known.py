"""What a configuration says of its model, of a family that is known here or of any other.

Nothing refuses to measure a model that it cannot operate on: other families are taken for
language models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.architectures.base import BASE, Input, ModelClass
from surgery.architectures.classes import names_of
from surgery.architectures.registry import ARCHITECTURES


def input_of(model_type: str) -> Input:
    """Return what a model hears, or reads."""
    return ARCHITECTURES[model_type].input if model_type in ARCHITECTURES else "text"


def predicts_next(model_type: str) -> bool:
    """Whether a model with an output layer is made to predict the next token."""
    family = ARCHITECTURES.get(model_type)
    return family is None or family.predicts == "next token"


def named_class(config: Mapping[str, Any]) -> ModelClass | None:
    """Return the model class that a parsed config.json names, where it is known."""
    known = _classes(config)
    return next((known[name] for name in _named(config) if name in known), None)


def auto_classes(config: Mapping[str, Any]) -> dict[str, str]:
    """Return by auto class the model class of a checkpoint: its base model's and its own.

    Args:
        config: The parsed config.json.

    Returns:
        An empty dict where the family is not known here.
    """
    known = {name: one.autos for name, one in _classes(config).items() if one.autos}
    base = [name for name, autos in known.items() if BASE in autos]
    chosen = [*base, *(name for name in _named(config) if name in known)][:2]
    return {auto: name for name in dict.fromkeys(chosen) for auto in known[name]}


def _classes(config: Mapping[str, Any]) -> dict[str, ModelClass]:
    family = ARCHITECTURES.get(str(config.get("model_type")))
    return {} if family is None else {one.name: one for one in family.classes}


def _named(config: Mapping[str, Any]) -> list[str]:
    return names_of(config.get("architectures"))
