"""The ``surgery`` block of config.json: what was done to which modules, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .entries import is_count, read_entry
from .errors import LoadError, malformed
from .frequencies import read_pairs
from .heads import HeadLayout, SiteRanks
from .parts import LINEAR_METHODS

FORMAT_VERSION = 1
"""The format that is written, and the newest that is read."""

ABSORB_DECOMPOSE = "absorb-decompose"
COMPRESS = "compress"
"""Has no sites where it left a stock model: config.json says its widths."""
TRIM_VOCABULARY = "trim-vocabulary"
"""Never has sites: config.json says how many tokens there are."""
FINAL = (COMPRESS, TRIM_VOCABULARY)
"""What left is in no file, so nothing merges it back."""
SITE_NUMBERS = ("heads", "kv_heads", "head_dim")
SITE_RANKS = ("qk_ranks", "v_ranks")


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint's modules are, beside dense.

    Attributes:
        layouts: Heads and ranks of every restructured attention module, by its path.
            Where several operations treated one module, the last one's ranks are its tensors'.
        neurons: Neurons of every feed-forward block that config.json does not speak for, by its
            path; the last operation's.
        linears: Method and entry of every linear map with a small part, by its path.
        operations: Every operation in order, each with all its parts: options and provenance,
            which no model is built of, may be null in the file, or left out.
    """

    layouts: dict[str, HeadLayout] = field(default_factory=dict)
    neurons: dict[str, int] = field(default_factory=dict)
    linears: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    operations: list[dict[str, Any]] = field(default_factory=list)


def read_manifest(block: object, where: str = "config.json: surgery") -> Manifest:
    """Read the block of a checkpoint.

    Args:
        block: The ``surgery`` block as parsed from JSON.
        where: What to call it in an error.

    Raises:
        LoadError: If the format is newer than this runtime, a method is unknown, a linear map
            was treated twice, or the block does not have the documented form.
    """
    if not isinstance(block, Mapping):
        raise malformed(where, block, "an object")
    version = block.get("format_version")
    if not is_count(version):
        raise malformed(f"{where}.format_version", version, "a positive integer")
    if version > FORMAT_VERSION:
        raise LoadError(
            "The checkpoint was written in a newer format than this version can read.",
            where=f"{where}.format_version",
            found=version,
            expected=f"at most {FORMAT_VERSION}",
            hint="upgrade model-surgery",
        )
    operations = block.get("operations")
    if not isinstance(operations, list):
        raise malformed(f"{where}.operations", operations, "a list")
    manifest = Manifest()
    for number, operation in enumerate(operations):
        read_operation(f"{where}.operations[{number}]", operation, manifest)
    return manifest


def read_operation(
    where: str, operation: object, manifest: Manifest, *, parts_only: bool = False
) -> None:
    """Read one operation, behind those that a manifest holds.

    Args:
        where: What to call it in an error.
        operation: As parsed from JSON.
        manifest: Receives it.
        parts_only: Only one that leaves small parts will do: an adapter's.

    Raises:
        LoadError: It does not have the documented form; says where.
    """
    if not isinstance(operation, Mapping):
        raise malformed(where, operation, "an object")
    method: Any = operation.get("method")
    methods = (*(() if parts_only else (ABSORB_DECOMPOSE, *FINAL)), *LINEAR_METHODS)
    if method not in methods:
        raise LoadError(
            "The checkpoint was made by a method that this version cannot run.",
            where=f"{where}.method",
            found=repr(method),
            expected="one of: " + ", ".join(methods),
            hint="upgrade model-surgery",
        )
    sites = operation.get("sites")
    if not isinstance(sites, Mapping):
        raise malformed(f"{where}.sites", sites, "an object of module paths")
    if manifest.linears and (method == ABSORB_DECOMPOSE or (method == COMPRESS and sites)):
        raise malformed(f"{where}.method", method, "what came before small parts, in that order")
    if method == TRIM_VOCABULARY and sites:
        raise malformed(f"{where}.sites", list(sites), "an empty object")
    for path, site in sites.items():
        place = f"{where}.sites[{path!r}]"
        if method == ABSORB_DECOMPOSE:
            manifest.layouts[str(path)] = _read_site(place, site)
        elif method == COMPRESS:
            manifest.neurons[str(path)] = _read_neurons(place, site)
        elif path in manifest.linears:
            raise malformed(place, method, "a linear map that no operation before has treated")
        else:
            manifest.linears[str(path)] = method, read_entry(place, method, site)
    whole = {**operation, "sites": dict(sites)}
    for key in ("options", "provenance"):
        value = operation.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise malformed(f"{where}.{key}", value, "an object")
        whole[key] = dict(value or {})
    manifest.operations.append(whole)


def _read_neurons(where: str, site: object) -> int:
    if not isinstance(site, Mapping) or [*site] != ["neurons"]:
        raise malformed(where, site, "an object with one entry, neurons")
    found = site["neurons"]
    if not is_count(found) and not (type(found) is int and found == 0):
        raise malformed(f"{where}.neurons", found, "an integer from 0")
    return int(found)


def _read_site(where: str, site: object) -> HeadLayout:
    if not isinstance(site, Mapping):
        raise malformed(where, site, "an object")
    for name in SITE_NUMBERS:
        if not is_count(site.get(name)):
            raise malformed(f"{where}.{name}", site.get(name), "a positive integer")
    for name in SITE_RANKS:
        ranks = site.get(name)
        if not isinstance(ranks, list) or not all(
            isinstance(rank, int) and not isinstance(rank, bool) for rank in ranks
        ):
            raise malformed(f"{where}.{name}", ranks, "a list of integers")
    pairs = read_pairs(where, site)
    try:
        return HeadLayout(
            heads=site["heads"],
            kv_heads=site["kv_heads"],
            head_dim=site["head_dim"],
            ranks=SiteRanks(tuple(site["qk_ranks"]), tuple(site["v_ranks"]), pairs),
        )
    except LoadError as error:
        raise LoadError(
            error.message,
            where=where,
            found=error.found,
            expected=error.expected,
            hint=error.hint,
        ) from None


def renamed(block: Mapping[str, Any], paths: Mapping[str, str]) -> dict[str, Any]:
    """Return the block with its module paths replaced by ``paths``.

    A model may name its modules with a prefix that its checkpoint lacks, or the other way about;
    what it saves then carries its own names, and the block must follow.
    """
    operations = [
        {
            **operation,
            "sites": {paths.get(path, path): site for path, site in operation["sites"].items()},
        }
        for operation in block["operations"]
    ]
    return {**block, "operations": operations}
