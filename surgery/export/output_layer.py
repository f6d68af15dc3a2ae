"""Where a model's token embedding and its output layer are stored: by the tensors alone.

Configurations are copied from model to model, and some say "tied" beside an output layer of its
own. transformers compares the tensors; so does this. Where only one of the two is stored, it may be
under either name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surgery.checkpoint.source import TensorSource

ROWS = 1 << 12
"""Rows that are compared at once: layers that differ mostly differ in the first."""


@dataclass(frozen=True)
class WordLayers:
    """The tensors that words enter and leave a model by.

    Attributes:
        embedding: Name of the stored token embedding.
        output: Name of the stored output layer; the same where one tensor is both.
    """

    embedding: str
    output: str

    @property
    def tied(self) -> bool:
        """Whether one tensor is both."""
        return self.embedding == self.output


def word_layers(source: TensorSource, embedding: str, output: str) -> WordLayers | None:
    """Return which of two tensors are stored, and whether they are one; ``None`` if neither is.

    Args:
        source: The checkpoint.
        embedding: What the token embedding is called there, if it is stored under its own name.
        output: What the output layer is called, likewise.
    """
    if embedding not in source.infos or output not in source.infos:
        one = next((name for name in (embedding, output) if name in source.infos), None)
        return None if one is None else WordLayers(one, one)
    same = _equal(source.tensor(embedding), source.tensor(output))
    return WordLayers(embedding, embedding if same else output)


def lacking(source: TensorSource, embedding: str, output: str, *, tied: bool) -> str | None:
    """Say what is not stored of two tensors that are not one; ``None`` where nothing is lacking.

    Args:
        source: The checkpoint.
        embedding: As for :func:`word_layers`.
        output: As for :func:`word_layers`.
        tied: Whether the configuration says that one tensor is both.
    """
    missing = [name for name in (embedding, output) if name not in source.infos]
    if tied or len(missing) != 1:
        return None
    return f"config.json says that its output layer is one of its own, and {missing[0]} is missing"


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two matrices hold the same numbers, whatever their dtypes."""
    if one.shape != other.shape:
        return False
    wide = torch.promote_types(one.dtype, other.dtype)
    return all(
        torch.equal(one[row : row + ROWS].to(wide), other[row : row + ROWS].to(wide))
        for row in range(0, len(one), ROWS)
    )
