"""The ``surgery`` block of config.json: what was done to a checkpoint, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from surgery.architectures import AttentionSite
from surgery.architectures.ranks import SiteRanks
from surgery.errors import CheckpointError
from surgery.runtime.entries import read_entry
from surgery.runtime.errors import LoadError, malformed
from surgery.runtime.frequencies import KEY, check_pairs, check_rotary, read_pairs
from surgery.runtime.manifest import read_manifest
from surgery.runtime.parts import LINEAR_METHODS

FORMAT_VERSION = 1
ABSORB_DECOMPOSE = "absorb-decompose"

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


def read_operations(raw: Mapping[str, Any], *, where: str) -> list[Operation]:
    """Return the operations of a checkpoint in order; none for a dense one.

    Args:
        raw: The parsed config.json.
        where: The file, for messages.

    Raises:
        CheckpointError: The block is malformed, of another format, or holds unknown methods.
    """
    block = raw.get("surgery")
    if block is None:
        return []
    with _readable(where):
        read_manifest(block)  # what the runtime would refuse is not operated on either
        return [
            _whole(operation, f"{where}: surgery.operations[{number}]")
            for number, operation in enumerate(block["operations"])
        ]


def _whole(operation: Operation, where: str) -> Operation:
    """Return an operation with all its parts: options and provenance may be null, or left out."""
    parts: Operation = {"sites": dict(operation["sites"])}
    for key in ("options", "provenance"):
        value = operation.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise malformed(f"{where}.{key}", value, "an object")
        parts[key] = dict(value or {})
    return {**operation, **parts}


def read_ranks(
    operations: Sequence[Operation], sites: Sequence[AttentionSite], *, where: str
) -> dict[str, SiteRanks]:
    """Return the ranks every restructured block of a checkpoint is stored at.

    Args:
        operations: What was done to it.
        sites: Every block the configuration describes.
        where: The file, for messages.

    Raises:
        CheckpointError: A site is malformed or unknown.
    """
    known = {site.path: site for site in sites}
    with _readable(where):
        return {
            path: _checked(known[path], entry)
            for operation in operations
            if operation["method"] == ABSORB_DECOMPOSE
            for path, entry in operation["sites"].items()
        }


def read_linears(
    operations: Sequence[Operation], *, where: str
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return method and entry of every treated linear map, by its module's path.

    Raises:
        CheckpointError: A site is malformed, or treated twice.
    """
    linears: dict[str, tuple[str, dict[str, Any]]] = {}
    with _readable(where):
        for operation in operations:
            method = operation["method"]
            if method not in LINEAR_METHODS:
                continue
            for path, entry in operation["sites"].items():
                if path in linears:
                    raise ValueError(f"{path} was treated by {linears[path][0]} already")
                linears[path] = method, dict(read_entry(f"{where}: {path}", method, entry))
    return linears


def checkpoint_error(error: LoadError) -> CheckpointError:
    """Return what the runtime refused, in this package's vocabulary."""
    return CheckpointError(
        error.message,
        where=error.where,
        found=error.found,
        expected=error.expected,
        hint=error.hint,
    )


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except LoadError as error:
        raise checkpoint_error(error) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            "The surgery block cannot be read",
            where=where,
            found=f"{type(error).__name__}: {error}",
            hint="the file was edited, or belongs to other weights",
        ) from error


def _checked(site: AttentionSite, entry: Mapping[str, Any]) -> SiteRanks:
    shape = (entry["heads"], entry["kv_heads"], entry["head_dim"])
    if shape != (site.heads, site.kv_heads, site.head_dim):
        raise ValueError(f"{site.path} has heads, kv heads, head dimension {shape}")
    qk, vo = tuple(entry["qk_ranks"]), tuple(entry["v_ranks"])
    for name, kept in (("qk_ranks", qk), ("v_ranks", vo)):
        valid = all(type(rank) is int and 1 <= rank <= site.head_dim for rank in kept)
        if len(kept) != site.kv_heads or not valid:
            raise ValueError(f"{site.path} {name} = {list(kept)}")
    pairs = read_pairs(site.path, entry)
    if pairs is not None:
        check_pairs(pairs, qk, site.head_dim)
    check_rotary(site.path, pairs, qk, site.head_dim, rotary="rope" in site.between)
    return SiteRanks(qk, vo, pairs)
