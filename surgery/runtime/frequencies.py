"""RoPE frequencies that heads keep: reading and checking them, and rotating by those alone.

In the half-split layout, frequency i of a head of dimension d turns the pair of rows i and
i + d/2. A head that keeps only some pairs stores the first row of each in order, then the second
row of each: again a half-split layout, of its own width. The kept frequencies are picked from the
cosines and sines that the model computes, so every kind of RoPE scaling stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import LoadError, malformed
from .packing import Index

KEY = "rope_pairs"

Pairs = tuple[tuple[int, ...], ...]
"""Kept frequencies of each key/value head, ascending."""


def read_pairs(where: str, site: Mapping[str, Any]) -> Pairs | None:
    """Return what a site's entry of config.json says of its frequencies; ``None``: all are kept.

    Raises:
        LoadError: If it says it in another form than one list of integers per head.
    """
    if KEY not in site:
        return None
    value = site[KEY]
    if not isinstance(value, list) or not all(isinstance(kept, list) for kept in value):
        raise malformed(f"{where}.{KEY}", value, "a list of lists of integers")
    for number in (number for kept in value for number in kept):
        if not isinstance(number, int) or isinstance(number, bool):
            raise malformed(f"{where}.{KEY}", number, "a list of lists of integers")
    return tuple(tuple(kept) for kept in value)


def check_pairs(pairs: Pairs, qk_ranks: Sequence[int], head_dim: int) -> None:
    """Require frequencies that heads of these ranks can keep.

    Raises:
        LoadError: If a head has none, one that is not there or not in order, or if their number
            is not half its rank.
    """
    if len(pairs) != len(qk_ranks):
        raise LoadError(
            f"{KEY} does not give one list per key/value head.",
            found=f"{len(pairs)} lists",
            expected=f"{len(qk_ranks)}",
        )
    for kept, rank in zip(pairs, qk_ranks, strict=True):
        ascending = list(kept) == sorted(set(kept))
        if not kept or not ascending or kept[0] < 0 or kept[-1] >= head_dim // 2:
            raise LoadError(
                f"{KEY} holds what cannot be the frequencies of a head.",
                found=list(kept),
                expected=f"one or more numbers from 0 to {head_dim // 2 - 1}, ascending",
            )
        if 2 * len(kept) != rank:
            raise LoadError(
                f"{KEY} and qk_ranks contradict each other.",
                found=f"{len(kept)} frequency pairs at rank {rank}",
                expected="twice as many rows as pairs",
            )


def check_rotary(
    where: str, pairs: Pairs | None, qk_ranks: Sequence[int], head_dim: int, *, rotary: bool
) -> None:
    """Require frequencies where rotary heads are narrower, and none where nothing is rotated.

    Raises:
        LoadError: If they are missing, or have no meaning.
    """
    if rotary and pairs is None and set(qk_ranks) != {head_dim}:
        raise LoadError(
            "Rotary queries and keys lose whole frequency pairs, and it is not said which.",
            where=where,
            found=f"qk_ranks {list(qk_ranks)} and no {KEY}",
            expected=f"{KEY}, or rank {head_dim} for every head",
        )
    if not rotary and pairs is not None:
        raise LoadError(
            f"{KEY} has no meaning in a model without rotary positions.", where=where, found=KEY
        )


class Frequencies:
    """Rotation of the heads of one block, each by the frequencies it keeps.

    Notation: B batch, T length, H query heads, G key/value heads, w width of the widest head, d
    head dimension before any surgery.

    Args:
        pairs: Kept frequencies of each key/value head; ``None``: all.
        head_dim: d.
    """

    def __init__(self, pairs: Pairs | None, head_dim: int) -> None:
        self._pairs = pairs
        self._half = head_dim // 2
        self._shared = pairs is None or len(set(pairs)) == 1
        self._index = Index(self.columns())  # (G, w)

    def columns(self) -> list[list[int]]:
        """Return which of the d cosines each column of each head meets, at width w.

        Where a narrower head is padded, any will do: it turns zeros.
        """
        pairs = self._pairs or ()
        widest = max(map(len, pairs), default=0)
        padded = [[*kept, *[0] * (widest - len(kept))] for kept in pairs]
        return [[*kept, *(self._half + number for number in kept)] for kept in padded]

    def rotate(
        self,
        stock: Callable[..., tuple[Tensor, Tensor]],
        query: Tensor,
        key: Tensor,
        cos: Tensor,
        sin: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Rotate queries and keys by position, as the family's own code does.

        Args:
            stock: The family's ``apply_rotary_pos_emb``.
            query: ``(B, H, T, w)``.
            key: ``(B, G, T, w)``.
            cos: ``(B or 1, T, d)``, as the model gives it to every block.
            sin: Likewise.

        Returns:
            The rotated queries and keys, in the same shapes.
        """
        if self._pairs is None:
            return stock(query, key, cos, sin)
        index = self._index.on(cos.device)
        if self._shared:
            return stock(query, key, cos[..., index[0]], sin[..., index[0]])
        # (B, T, G, w) -> (B, G, T, w), shared by the query heads of a group
        cos, sin = (each[..., index].transpose(1, 2) for each in (cos, sin))
        grouped = torch.unflatten(query, 1, (len(self._pairs), -1))
        turned, key = stock(grouped, key.unsqueeze(2), cos, sin, unsqueeze_dim=2)
        return turned.flatten(1, 2), key.squeeze(2)
