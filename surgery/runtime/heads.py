"""Heads of unequal width: how they are stored side by side, and how they are executed.

Stored, the heads of a projection lie packed along one axis, each as wide as its rank. Attention
kernels want one width for all heads of a block, so ragged heads are laid out at the widest
head's width with zeros in the rest; uniform heads are only viewed, never padded. Rotary heads
are two halves that belong together column by column: there each half is padded by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import LoadError
from .frequencies import Frequencies, Pairs, check_pairs


class ExecutedWidths(NamedTuple):
    """Columns a head's score (``qk``) and context (``v``) products run over, padding included."""

    qk: int
    v: int


def executed_widths(qk_ranks: Sequence[int], v_ranks: Sequence[int]) -> ExecutedWidths:
    """Return the widths that every head of a block runs at, from the ranks its heads keep.

    Only the two products inside attention are ever padded (scores over ``qk`` columns, contexts
    over ``v``). The four projections and the KV cache always hold exactly the ranks.

    Args:
        qk_ranks: Kept QK rank of each key/value head.
        v_ranks: Kept V rank of each key/value head.
    """
    return ExecutedWidths(max(qk_ranks), max(v_ranks))


class Packing:
    """Heads of given ranks, packed along one axis.

    Args:
        ranks: Width of each head, in storage order.
        parts: How many equal parts a head's columns have, each padded by itself.

    Attributes:
        count: Number of heads.
        total: Packed width, the sum of the ranks.
        width: Width of the widest head.
        uniform: Whether all heads have the same width, so that unpacking is a view.
    """

    def __init__(self, ranks: Sequence[int], *, parts: int = 1) -> None:
        self.ranks = tuple(ranks)
        self.parts = parts
        self.count = len(self.ranks)
        self.total = sum(self.ranks)
        self.width = max(self.ranks)
        self.uniform = min(self.ranks) == self.width
        self._index: Tensor | None = None

    def positions(self) -> list[int]:
        """Return where each packed column lies once all heads are ``width`` wide."""
        return [
            head * self.width + part * (self.width // self.parts) + column
            for head, rank in enumerate(self.ranks)
            for part in range(self.parts)
            for column in range(rank // self.parts)
        ]

    def unpack(self, packed: Tensor) -> Tensor:
        """Split a packed axis into heads of one width, zeros where a head has fewer columns.

        Args:
            packed: ``(batch, time, total)``.

        Returns:
            ``(batch, count, time, width)``; a view of ``packed`` where the ranks are uniform.
        """
        batch, time, _ = packed.shape
        if not self.uniform:
            wide = packed.new_zeros(batch, time, self.count * self.width)
            packed = wide.index_copy_(-1, self._positions_on(packed.device), packed)
        return packed.view(batch, time, self.count, self.width).transpose(1, 2)

    def pack(self, heads: Tensor) -> Tensor:
        """Lay heads of one width side by side again, dropping what lies beyond their ranks.

        Args:
            heads: ``(batch, time, count, width)``.

        Returns:
            ``(batch, time, total)``, contiguous.
        """
        flat = heads.reshape(*heads.shape[:2], self.count * self.width)
        if self.uniform:
            return flat
        return flat[..., self._positions_on(heads.device)]

    def _positions_on(self, device: torch.device) -> Tensor:
        # Not a module buffer: loading on the meta device would leave a buffer empty, and a
        # buffer would have to be named in the checkpoint. Rebuilt where the data is, once.
        if self._index is None or self._index.device != device:
            self._index = torch.tensor(self.positions(), dtype=torch.long, device=device)
        return self._index


@dataclass(frozen=True)
class HeadLayout:
    """The ranks of one attention block.

    Attributes:
        heads: Query heads.
        kv_heads: Key/value heads; query head ``h`` reads key/value head ``h // groups``.
        head_dim: Head dimension before any surgery. It still sets the softmax scale.
        qk_ranks: Width of the queries and keys of each key/value head.
        v_ranks: Width of the values of each key/value head.
        rope_pairs: RoPE frequencies that each key/value head keeps; ``None``: all, or no RoPE.

    Raises:
        LoadError: If the heads do not divide, a rank is missing, a rank is not between 1 and
            ``head_dim``, or the frequencies do not fit the ranks.
    """

    heads: int
    kv_heads: int
    head_dim: int
    qk_ranks: tuple[int, ...]
    v_ranks: tuple[int, ...]
    rope_pairs: Pairs | None = None

    def __post_init__(self) -> None:
        if min(self.heads, self.kv_heads, self.head_dim) < 1 or self.heads % self.kv_heads:
            raise LoadError(
                "The head counts of an attention block do not fit together.",
                found=f"heads={self.heads}, kv_heads={self.kv_heads}, head_dim={self.head_dim}",
                expected="positive numbers, heads a multiple of kv_heads",
            )
        for name, ranks in (("qk_ranks", self.qk_ranks), ("v_ranks", self.v_ranks)):
            if len(ranks) != self.kv_heads:
                raise LoadError(
                    f"{name} does not give one rank per key/value head.",
                    found=f"{len(ranks)} ranks",
                    expected=f"{self.kv_heads}",
                )
            if min(ranks) < 1 or max(ranks) > self.head_dim:
                raise LoadError(
                    f"{name} holds a rank that no head can have.",
                    found=list(ranks),
                    expected=f"ranks between 1 and the head dimension {self.head_dim}",
                    hint="a head cannot be removed altogether; its smallest rank is 1",
                )
        if self.rope_pairs is not None:
            check_pairs(self.rope_pairs, self.qk_ranks, self.head_dim)

    @property
    def groups(self) -> int:
        """Query heads that share one key/value head."""
        return self.heads // self.kv_heads

    @property
    def uniform(self) -> bool:
        """Whether nothing is padded: one QK rank and one V rank for the whole block."""
        return self.keys.uniform and self.values.uniform

    @property
    def executed_widths(self) -> ExecutedWidths:
        """Widths of every head in the score and context products, padding included."""
        return executed_widths(self.qk_ranks, self.v_ranks)

    @cached_property
    def queries(self) -> Packing:
        """Packing of q's output: one head a query head."""
        ranks = [rank for rank in self.qk_ranks for _ in range(self.groups)]
        return Packing(ranks, parts=1 if self.rope_pairs is None else 2)

    @cached_property
    def keys(self) -> Packing:
        """Packing of k's output: one head a key/value head."""
        return Packing(self.qk_ranks, parts=1 if self.rope_pairs is None else 2)

    @cached_property
    def values(self) -> Packing:
        """Packing of v's output: one head a key/value head."""
        return Packing(self.v_ranks)

    @cached_property
    def contexts(self) -> Packing:
        """Packing of o's input: one head a query head."""
        return Packing([rank for rank in self.v_ranks for _ in range(self.groups)])

    @cached_property
    def frequencies(self) -> Frequencies:
        """Rotation of queries and keys, where the family rotates them."""
        return Frequencies(self.rope_pairs, self.head_dim)
