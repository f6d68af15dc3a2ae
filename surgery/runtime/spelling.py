"""How a model and its checkpoint spell one name: with the base model's prefix or without it."""

from __future__ import annotations

from collections.abc import Container
from typing import Any


def spellings(name: str, prefix: str) -> tuple[str, str, str]:
    """Return how a name may be spelled: as it is, with the prefix, without it.

    Args:
        name: Of a tensor or a module.
        prefix: The model class's ``base_model_prefix``, such as ``model`` or ``transformer``.
    """
    dotted = f"{prefix}."
    return name, dotted + name, name.removeprefix(dotted)


def spelled_in(known: Container[str], name: str, prefix: str) -> str | None:
    """Return how the other side, whose names are known, spells a name; ``None`` if it has none."""
    return next((one for one in spellings(name, prefix) if one in known), None)


def path_in(model: Any, path: str) -> str | None:
    """Return how a model spells a checkpoint's module path; ``None`` if it has no such module."""
    for candidate in spellings(path, getattr(model, "base_model_prefix", "")):
        try:
            model.get_submodule(candidate)
        except AttributeError:
            continue
        return candidate
    return None
