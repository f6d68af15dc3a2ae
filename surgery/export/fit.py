"""How much of what surgery removed a format keeps removed, counted exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.architectures.base import Scope
from surgery.architectures.feed_forward import feed_forward_seam, width_keys
from surgery.report.accounting import full_ranks, site_parameters
from surgery.runtime.heads import SiteRanks
from surgery.stored.stored import Stored


def kept_share(
    stored: Stored, written: Mapping[str, SiteRanks], neurons: Mapping[str, int] | None = None
) -> float | None:
    """Return the share of the removed parameters that a format does not store again.

    Args:
        stored: The checkpoint.
        written: Ranks the format stores, zeros included, by the path of the block; blocks that
            are absent are stored at full size.
        neurons: Likewise, of the feed-forward blocks that config.json does not speak for.

    Returns:
        1 where nothing comes back, 0 where everything does; ``None`` where nothing was removed.
    """
    removed, still = removed_neurons(stored, neurons or {})
    for site in stored.claims.sites:
        if site.path not in stored.ranks:
            continue
        full = full_ranks(site)
        dense = site_parameters(site, full)
        removed += dense - site_parameters(site, stored.ranks[site.path])
        still += dense - site_parameters(site, written.get(site.path, full))
    return still / removed if removed else None


def removed_neurons(stored: Stored, written: Mapping[str, int]) -> tuple[int, int]:
    """Return how many parameters neurons were that are gone, and that a format leaves gone."""
    removed = still = 0
    for block in stored.dense_blocks if stored.neurons else ():
        cost, full = feed_forward_seam(block).cost, block.neurons
        removed += cost * (full - stored.neurons.get(block.path, full))
        still += cost * (full - written.get(block.path, full))
    return removed, still


def widest(stored: Stored) -> dict[str, int]:
    """Return by path the neurons of blocks that are to be as wide as the widest of their tower."""
    most: dict[Scope, int] = {}
    for block in stored.blocks if stored.neurons else ():
        most[block.scope] = max(1, block.neurons, most.get(block.scope, 0))
    ragged = {block.scope for block in stored.blocks if block.path in stored.neurons}
    return {one.path: most[one.scope] for one in stored.blocks if one.scope in ragged}


def with_width(config: Mapping[str, Any], stored: Stored, widths: Mapping[str, int]) -> Any:
    """Return a configuration that says one width a tower."""
    blocks = [block for block in stored.blocks if block.path in widths]
    keys = width_keys(stored.family, stored.config, stored.claims, blocks)
    told = {keys[block.scope]: widths[block.path] for block in blocks}
    return {**config, **told}
