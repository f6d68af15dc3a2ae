"""How a model and its checkpoint spell the same tensor: with the base model's prefix or without."""

from __future__ import annotations

from collections.abc import Container


def respelled(name: str, known: Container[str], prefix: str) -> str | None:
    """Return how the other side spells a tensor's name; ``None`` where it has no such tensor.

    Args:
        name: As one side spells it.
        known: Every name of the other side.
        prefix: The model class's ``base_model_prefix``, such as ``model`` or ``transformer``.
    """
    dotted = f"{prefix}."
    for candidate in (name, dotted + name, name.removeprefix(dotted)):
        if candidate in known:
            return candidate
    return None
