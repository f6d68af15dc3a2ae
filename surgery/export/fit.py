"""How much of what surgery removed a format keeps removed, counted exactly."""

from __future__ import annotations

from collections.abc import Mapping

from surgery.architectures.ranks import SiteRanks, full_ranks
from surgery.report.accounting import site_parameters
from surgery.stored.stored import Stored


def kept_share(stored: Stored, written: Mapping[str, SiteRanks]) -> float | None:
    """Return the share of the removed parameters that a format does not store again.

    Args:
        stored: The checkpoint.
        written: Ranks the format stores, zeros included, by the path of the block; blocks that
            are absent are stored at full size.

    Returns:
        1 where nothing comes back, 0 where everything does; ``None`` where nothing was removed.
    """
    removed = still = 0
    for site in stored.claims.sites:
        if site.path not in stored.ranks:
            continue
        full = full_ranks(site)
        dense = site_parameters(site, full)
        removed += dense - site_parameters(site, stored.ranks[site.path])
        still += dense - site_parameters(site, written.get(site.path, full))
    return still / removed if removed else None
