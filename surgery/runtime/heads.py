"""What one attention block keeps, head by head, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .errors import LoadError
from .frequencies import Frequencies, Pairs, check_pairs, check_rotary
from .packing import Packing


@dataclass(frozen=True)
class SiteRanks:
    """Kept ranks of one attention block, one a key/value head.

    Attributes:
        qk: Width of queries and keys.
        vo: Width of values and of o's input. A head of rank 0 adds nothing to the output but what
            o's bias holds.
        pairs: RoPE frequencies i that stay, ascending: rows i and i + d/2 of queries and keys, d
            the head dimension. ``None``: all, or no RoPE.
    """

    qk: tuple[int, ...]
    vo: tuple[int, ...]
    pairs: Pairs | None = None

    def of(self, seam: str) -> tuple[int, ...]:
        """Return the ranks of a seam by its name."""
        return {"qk": self.qk, "vo": self.vo}[seam]


@dataclass(frozen=True)
class HeadLayout:
    """The heads of one attention block, and what they keep.

    Attributes:
        heads: Query heads.
        kv_heads: Key/value heads; query head ``h`` reads key/value head ``h // groups``.
        head_dim: Head dimension before any surgery. It still sets the softmax scale.
        ranks: What they keep.

    Raises:
        LoadError: If the heads do not divide, a rank is missing, a rank is not between 1 (of
            values 0) and ``head_dim``, or the frequencies do not fit the ranks.
    """

    heads: int
    kv_heads: int
    head_dim: int
    ranks: SiteRanks

    def __post_init__(self) -> None:
        if min(self.heads, self.kv_heads, self.head_dim) < 1 or self.heads % self.kv_heads:
            raise LoadError(
                "The head counts of an attention block do not fit together.",
                found=f"heads={self.heads}, kv_heads={self.kv_heads}, head_dim={self.head_dim}",
                expected="positive numbers, heads a multiple of kv_heads",
            )
        for name, ranks, least in (("qk_ranks", self.ranks.qk, 1), ("v_ranks", self.ranks.vo, 0)):
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
        if self.ranks.pairs is not None:
            check_pairs(self.ranks.pairs, self.ranks.qk, self.head_dim)

    def check(
        self, path: str, heads: int, kv_heads: int, head_dim: int, *, rotary: bool = False
    ) -> None:
        """Require heads as the rest of the configuration says them, at the block's ``path``.

        Raises:
            LoadError: If they differ, or if too little or too much is said of RoPE.
        """
        found = (self.heads, self.kv_heads, self.head_dim)
        if found != (heads, kv_heads, head_dim):
            raise LoadError(
                "The surgery block contradicts the rest of config.json.",
                where=path,
                found=f"heads, kv_heads, head_dim = {found}",
                expected=(heads, kv_heads, head_dim),
            )
        check_rotary(path, self.ranks.pairs, self.ranks.qk, head_dim, rotary=rotary)

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
        ranks = [rank for rank in self.ranks.qk for _ in range(self.groups)]
        return Packing(ranks, parts=1 if self.ranks.pairs is None else 2)

    @cached_property
    def keys(self) -> Packing:
        """Packing of k's output: one head a key/value head."""
        return Packing(self.ranks.qk, parts=1 if self.ranks.pairs is None else 2)

    @cached_property
    def values(self) -> Packing:
        """Packing of v's output: one head a key/value head."""
        return Packing(self.ranks.vo)

    @cached_property
    def contexts(self) -> Packing:
        """Packing of o's input: one head a query head."""
        return Packing([rank for rank in self.ranks.vo for _ in range(self.groups)])

    @cached_property
    def frequencies(self) -> Frequencies:
        """Rotation of queries and keys, where the family rotates them."""
        return Frequencies(self.ranks.pairs, self.head_dim)
