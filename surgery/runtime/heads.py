"""The ranks of one attention block, head by head, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .errors import LoadError
from .frequencies import Frequencies, Pairs, check_pairs
from .packing import Packing


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

    A head of V rank 0 adds nothing to the output but what o's bias holds.

    Raises:
        LoadError: If the heads do not divide, a rank is missing, a rank is not between 1 (of
            values 0) and ``head_dim``, or the frequencies do not fit the ranks.
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
        for name, ranks, least in (("qk_ranks", self.qk_ranks, 1), ("v_ranks", self.v_ranks, 0)):
            if len(ranks) != self.kv_heads:
                raise LoadError(
                    f"{name} does not give one rank per key/value head.",
                    found=f"{len(ranks)} ranks",
                    expected=f"{self.kv_heads}",
                )
            if min(ranks) < least or max(ranks) > self.head_dim:
                raise LoadError(
                    f"{name} holds a rank that no head can have.",
                    found=list(ranks),
                    expected=f"ranks between {least} and the head dimension {self.head_dim}",
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
