"""The ranks an attention block is stored at."""

from __future__ import annotations

from dataclasses import dataclass

from surgery.architectures.base import AttentionSite


@dataclass(frozen=True)
class SiteRanks:
    """Kept ranks of one attention block, one a key/value head.

    Attributes:
        qk: Width of queries and keys.
        vo: Width of values and of o's input.
        pairs: RoPE frequencies i that stay, ascending: rows i and i + d/2 of queries and keys, d
            the head dimension. ``None``: all, or no RoPE.

    Raises:
        ValueError: If ``pairs`` are not half as many as ``qk`` says.
    """

    qk: tuple[int, ...]
    vo: tuple[int, ...]
    pairs: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        if self.pairs is not None and tuple(2 * len(kept) for kept in self.pairs) != self.qk:
            raise ValueError(f"frequency pairs {self.pairs} do not make ranks {self.qk}")

    def of(self, seam: str) -> tuple[int, ...]:
        """Return the ranks of a seam by its name."""
        return {"qk": self.qk, "vo": self.vo}[seam]


def full_ranks(site: AttentionSite) -> SiteRanks:
    """Return the ranks of an untouched block: the head dimension everywhere."""
    full = (site.head_dim,) * site.kv_heads
    return SiteRanks(qk=full, vo=full)
