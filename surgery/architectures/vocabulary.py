"""Which tensors have a row for every token: the embedding, the output layer, its bias."""

from __future__ import annotations

from collections.abc import Collection

from surgery.architectures.base import Architecture
from surgery.architectures.classes import expected, place
from surgery.architectures.config import Config
from surgery.architectures.sites import Claims

ROWS = "vocab_size"
"""What families call the number of tokens, in shapes and in config.json."""


def by_token(
    family: Architecture, config: Config, claims: Claims, stored: Collection[str]
) -> tuple[str, ...]:
    """Return the stored tensors with a row for every token, by their whole names.

    Args:
        family: The family.
        config: The checkpoint's configuration.
        claims: Its tensors.
        stored: Their names: of two that are tied, one may be left out.
    """
    shapes = expected(family, config, claims.model_class)
    names = (place(name, claims.prefix) for name, shape in shapes.items() if shape[0] == ROWS)
    return tuple(name for name in names if name in stored)
