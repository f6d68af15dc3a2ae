"""The ``surgery`` block of config.json: what was done to a checkpoint, in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.architectures import AttentionSite
from surgery.architectures.ranks import SiteRanks
from surgery.engine.plan import Plan
from surgery.errors import CheckpointError

FORMAT_VERSION = 1
ABSORB_DECOMPOSE = "absorb-decompose"


def site_entry(site: AttentionSite, ranks: SiteRanks) -> dict[str, Any]:
    """Return what the runtime needs to know about one block."""
    return {
        "heads": site.heads,
        "kv_heads": site.kv_heads,
        "head_dim": site.head_dim,
        "qk_ranks": list(ranks.qk),
        "v_ranks": list(ranks.vo),
    }


def surgery_block(
    plan: Plan, ranks: Mapping[str, SiteRanks], provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the block a restructured checkpoint carries in its config.json."""
    sites = {each.site.path: site_entry(each.site, ranks[each.site.path]) for each in plan.sites}
    operation = {"method": ABSORB_DECOMPOSE, "options": plan.options.plain(), "sites": sites}
    return {
        "format_version": FORMAT_VERSION,
        "provenance": dict(provenance),
        "operations": [operation],
    }


def read_ranks(
    raw: Mapping[str, Any], sites: tuple[AttentionSite, ...], *, where: str
) -> dict[str, SiteRanks]:
    """Return the ranks every restructured block of a checkpoint is stored at.

    Args:
        raw: The parsed config.json; a dense checkpoint has no ``surgery`` block.
        sites: Every block the configuration describes.
        where: The file, for messages.

    Raises:
        CheckpointError: The block is malformed, of a newer format, or names unknown blocks.
    """
    block = raw.get("surgery")
    if block is None:
        return {}
    known = {site.path: site for site in sites}
    result: dict[str, SiteRanks] = {}
    try:
        version = block["format_version"]
        operations = block["operations"]
        if version != FORMAT_VERSION:
            raise CheckpointError(
                "This checkpoint was written in another format",
                where=where,
                found=f"format_version {version}",
                expected=f"format_version {FORMAT_VERSION}",
                hint="use the version of surgery that wrote it, or a newer one",
            )
        for operation in operations:
            if operation["method"] != ABSORB_DECOMPOSE:
                raise ValueError(f"unknown method {operation['method']!r}")
            for path, entry in operation["sites"].items():
                result[path] = _checked(known[path], entry)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            "The surgery block cannot be read",
            where=where,
            found=f"{type(error).__name__}: {error}",
            hint="the file was edited, or belongs to other weights",
        ) from error
    return result


def _checked(site: AttentionSite, entry: Mapping[str, Any]) -> SiteRanks:
    shape = (entry["heads"], entry["kv_heads"], entry["head_dim"])
    if shape != (site.heads, site.kv_heads, site.head_dim):
        raise ValueError(f"{site.path} has heads, kv heads, head dimension {shape}")
    ranks = SiteRanks(qk=tuple(entry["qk_ranks"]), vo=tuple(entry["v_ranks"]))
    for name, kept in (("qk_ranks", ranks.qk), ("v_ranks", ranks.vo)):
        valid = all(type(rank) is int and 1 <= rank <= site.head_dim for rank in kept)
        if len(kept) != site.kv_heads or not valid:
            raise ValueError(f"{site.path} {name} = {list(kept)}")
    return ranks
