"""The ranks an attention block is stored at."""

from __future__ import annotations

from dataclasses import dataclass

from surgery.architectures.base import AttentionSite


@dataclass(frozen=True)
class SiteRanks:
    """Kept ranks of one attention block, one a key/value head."""

    qk: tuple[int, ...]
    vo: tuple[int, ...]


def full_ranks(site: AttentionSite) -> SiteRanks:
    """Return the ranks of an untouched block: the head dimension everywhere."""
    full = (site.head_dim,) * site.kv_heads
    return SiteRanks(qk=full, vo=full)
