"""Which of transformers' own model classes a directory is, and whether one can be built of it."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from .configuration import accepted, config_class, said
from .errors import LoadError


def check_built(raw: dict[str, Any], where: object) -> None:
    """Require that transformers builds a model of a configuration: without weights, on no device.

    Its own check of the values lets pass what no model can be built of: activations and kinds of
    RoPE that do not exist, a padding token behind the vocabulary.

    Args:
        raw: The parsed config.json; the caller's own, since reading it may change it.
        where: Its place, for messages.

    Raises:
        LoadError: It cannot; says why.
    """
    _check_shares(raw, where)
    kind = config_class(raw)
    stock: Any = stock_class(raw, kind, None)
    config = accepted(lambda: kind.from_dict(raw), where)
    try:
        with torch.device("meta"):
            stock(config)
    except Exception as error:  # nothing but the file goes in
        raise LoadError(
            "transformers cannot build the model that config.json describes.",
            where=where,
            found=said(error),
            expected=f"values that make a {stock.__name__}",
            hint="compare the file with the original model's",
        ) from error


def _check_shares(raw: dict[str, Any], where: object) -> None:
    """Require that what is dropped is a share: modules refuse it first when they run."""
    for key, value in raw.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        share = not number or 0 <= value <= 1  # NaN is none, either
        if key.endswith(("dropout", "_pdrop", "layerdrop", "_dropout_prob")) and not share:
            raise LoadError(
                "What config.json drops is no share of anything.",
                where=where,
                found=f"{key} = {value!r}",
                expected="a number from 0 to 1",
                hint="compare the file with the original model's",
            )


def stock_class(
    raw: dict[str, Any],
    kind: type[PreTrainedConfig],
    chosen: type[Any] | None,
    fallback: str | None = None,
) -> type[PreTrainedModel]:
    """Return the class to load a directory as.

    Args:
        raw: Its parsed config.json.
        kind: Its configuration's class.
        chosen: The caller's class or auto class, if any.
        fallback: Name of the class to take where ``architectures`` names none that is known.
            Default: the family's base model.

    Raises:
        LoadError: The chosen class is of another family, or there is none at all.
    """
    if chosen is not None:
        mapping = getattr(chosen, "_model_mapping", None)  # of an auto class
        if mapping is not None and kind in mapping:
            chosen = mapping[kind]
        if not _is_model_of(chosen, kind):
            raise LoadError(
                "model_class does not fit the directory.",
                found=getattr(chosen, "__name__", chosen),
                expected=f"a transformers model class for model_type {raw['model_type']!r}",
            )
        return cast(type[PreTrainedModel], chosen)
    listed = raw.get("architectures")
    for name in (*(listed if isinstance(listed, list) else ()), fallback):
        # Only classes that the installed transformers itself exports: `auto_map` is not read.
        named = getattr(transformers, name, None) if isinstance(name, str) else None
        if _is_model_of(named, kind) and named.__module__.startswith("transformers."):
            return cast(type[PreTrainedModel], named)
    if kind not in MODEL_MAPPING:
        raise LoadError(
            "config.json names no model class that transformers has.",
            where="config.json: architectures",
            found=listed,
            hint="pass model_class",
        )
    return cast(type[PreTrainedModel], MODEL_MAPPING[kind])


def _is_model_of(candidate: Any, kind: type[PreTrainedConfig]) -> bool:
    return (
        inspect.isclass(candidate)
        and issubclass(candidate, PreTrainedModel)
        and candidate.config_class is kind
    )
