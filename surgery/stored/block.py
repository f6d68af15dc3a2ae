"""The ``surgery`` block of config.json: what was done to a checkpoint, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from surgery.architectures import AttentionSite
from surgery.errors import CheckpointError
from surgery.runtime.errors import LoadError
from surgery.runtime.frequencies import KEY
from surgery.runtime.heads import HeadLayout, SiteRanks
from surgery.runtime.manifest import FORMAT_VERSION, Manifest, read_manifest

Operation = dict[str, Any]
"""One entry of ``operations``: method, options, provenance, and what each site needs."""


def site_entry(site: AttentionSite, ranks: SiteRanks) -> dict[str, Any]:
    """Return what the runtime needs to know about one block."""
    entry: dict[str, Any] = {
        "heads": site.heads,
        "kv_heads": site.kv_heads,
        "head_dim": site.head_dim,
        "qk_ranks": list(ranks.qk),
        "v_ranks": list(ranks.vo),
    }
    if ranks.pairs is not None:
        entry[KEY] = [list(kept) for kept in ranks.pairs]
    return entry


def surgery_block(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the block a checkpoint carries after these operations."""
    return {"format_version": FORMAT_VERSION, "operations": list(operations)}


def read_block(raw: Mapping[str, Any], *, where: str) -> Manifest:
    """Return what a checkpoint says was done to it; nothing of a dense one.

    Args:
        raw: The parsed config.json.
        where: The file, for messages.

    Raises:
        CheckpointError: The block is malformed, of another format, or holds unknown methods.
    """
    block = raw.get("surgery")
    if block is None:
        return Manifest()
    with translated():
        return read_manifest(block, f"{where}: surgery")


def read_operations(raw: Mapping[str, Any], *, where: str) -> list[Operation]:
    """Return the operations of a checkpoint in order: see :func:`read_block`."""
    return read_block(raw, where=where).operations


def read_ranks(
    layouts: Mapping[str, HeadLayout], sites: Iterable[AttentionSite], *, where: str
) -> dict[str, SiteRanks]:
    """Return the ranks every restructured block of a checkpoint is stored at.

    Args:
        layouts: What its ``surgery`` block says of them, by path.
        sites: Every block the configuration describes.
        where: The file, for messages.

    Raises:
        CheckpointError: A site is unknown, or has other heads than the configuration says.
    """
    known = {site.path: site for site in sites}
    found = {}
    for path, layout in layouts.items():
        if (site := known.get(path)) is None:
            raise CheckpointError(
                "The surgery block names an attention block that the model does not have",
                where=where,
                found=path,
                hint="the file was edited, or belongs to other weights",
            )
        heads, rotary = (site.heads, site.kv_heads, site.head_dim), "rope" in site.between
        with translated():
            layout.check(f"{where}: {path}", *heads, rotary=rotary)
        found[path] = layout.ranks
    return found


@contextmanager
def translated() -> Iterator[None]:
    """Raise what the runtime refuses in this package's vocabulary.

    Raises:
        CheckpointError: With all that the runtime said.
    """
    try:
        yield
    except LoadError as error:
        raise CheckpointError(
            error.message,
            where=error.where,
            found=error.found,
            expected=error.expected,
            hint=error.hint,
        ) from error
