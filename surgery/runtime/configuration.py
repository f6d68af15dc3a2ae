"""A config.json as the installed transformers understands it, or the reason why it does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .errors import LoadError

_T = TypeVar("_T")


def config_class(raw: Mapping[str, Any]) -> type[PreTrainedConfig]:
    """Return the configuration class of a parsed config.json.

    Raises:
        LoadError: This release of transformers has none for its ``model_type``.
    """
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise LoadError(
            "transformers has no model of this type.",
            where="config.json: model_type",
            found=repr(model_type),
            expected="a model type of the installed transformers, such as whisper or llama",
            hint="a model that needs code of its own cannot be loaded: that code is never run",
        )
    found: type[PreTrainedConfig] = CONFIG_MAPPING[model_type]
    return found


def check_config(raw: dict[str, Any], where: object) -> None:
    """Require that the installed transformers accepts a configuration.

    Its releases differ in what they take for a number, or which values they let go together.

    Args:
        raw: The parsed config.json; the caller's own, since reading it may change it.
        where: Its place, for messages.

    Raises:
        LoadError: It does not; says what it says.
    """
    build = config_class(raw).from_dict
    accepted(lambda: build(raw), where)


def accepted(build: Callable[[], _T], where: object) -> _T:
    """Return what transformers makes of a config.json.

    Raises:
        LoadError: It refuses the file; any error counts, since nothing but the file goes in.
    """
    try:
        return build()
    except Exception as error:
        raise LoadError(
            "config.json does not describe a model of its type.",
            where=where,
            found=said(error),
            expected="what the installed transformers takes",
            hint="compare the file with the original model's",
        ) from error


def said(error: Exception) -> str:
    """Return kind and text of an error of another library, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
