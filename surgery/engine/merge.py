"""Back to plain dense weights of the original shapes, which any transformers loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from surgery.architectures import AttentionSite
from surgery.architectures.ranks import SiteRanks, full_ranks
from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction, check_separate
from surgery.checkpoint.writer import TensorSpec
from surgery.engine.block import read_ranks
from surgery.engine.pack import read_site, write_site
from surgery.engine.plan import describe
from surgery.engine.reporting import versions
from surgery.engine.stream import Computed, cast, stream
from surgery.errors import CheckpointError, UsageError
from surgery.events import Progress, ignore
from surgery.report.accounting import restructured

CARD = """# {name}, merged

The dense form of a checkpoint that was restructured with model-surgery: original shapes,
zeros where vectors were cut. It computes what the restructured checkpoint computes, loads
without the package, and saves nothing at run time.

Made from: {source}
"""


def merge(
    checkpoint: str | Path,
    out: str | Path | None = None,
    *,
    force: bool = False,
    resume: bool = False,
    progress: Progress = ignore,
) -> Path:
    """Write a restructured checkpoint as a dense one that computes the same.

    Args:
        checkpoint: A restructured directory.
        out: Result directory; ``<checkpoint>-merged`` by default.
        force: Replace a result that is in the way.
        resume: Go on from an interrupted run.
        progress: Called with :class:`surgery.events.Event`.

    Returns:
        The result directory.

    Raises:
        UsageError: The checkpoint is dense already.
        CheckpointError: Its tensors contradict its ``surgery`` block.
    """
    with resolve(str(checkpoint)) as source:
        raw = source.config
        where = f"{source.name}/config.json"
        _, _, claims = describe(source)
        if "surgery" not in raw:
            raise UsageError(
                "This checkpoint is dense already: there is nothing to merge", where=where
            )
        stored = read_ranks(raw, claims.sites, where=where)
        sites = {site.path: site for site in claims.sites if site.path in stored}
        table = {name: (info.shape, info.dtype.itemsize) for name, info in source.infos.items()}
        check_stored(source, sites, stored)
        full = {path: full_ranks(site) for path, site in sites.items()}
        shapes = restructured(table, sites.values(), full)
        specs = {
            shard: [TensorSpec(name, source.infos[name].dtype, shapes[name][0]) for name in names]
            for shard, names in source.shards.items()
        }

        def compute(path: str) -> Computed:
            site = sites[path]
            dense = read_site(source.tensor, site, stored[path])
            tensors = write_site(dense, site, full[path])
            return Computed(
                {name: cast(name, t, source.infos[name].dtype) for name, t in tensors.items()}
            )

        target = Path(out) if out is not None else default_target(source)
        check_separate(source.directory, target)
        fingerprint = {"source": source.identity(), "merge": True, "versions": versions()}
        with Transaction(target, fingerprint, resume=resume, force=force) as transaction:
            blocks = {name: path for path, site in sites.items() for name in site.tensors()}
            stream(source, transaction, specs, blocks, compute, progress)
            source.write_sidecars(transaction.staging)
            provenance = raw.pop("surgery").get("provenance", {})
            transaction.write_text("config.json", json.dumps(raw, indent=2) + "\n")
            card = CARD.format(name=target.name, source=provenance.get("source", source.name))
            transaction.write_text("README.md", card)
            transaction.commit()
        return target


def default_target(source: TensorSource) -> Path:
    """Return ``<checkpoint>-merged``, beside the checkpoint.

    Raises:
        UsageError: There is no directory to be beside of.
    """
    if source.directory is None:
        raise UsageError("Say where to write the dense checkpoint with -o", where=source.name)
    directory = source.directory
    if directory.name in ("", ".."):  # "." and the like have a name only once resolved
        directory = directory.resolve()
    return directory.with_name(f"{directory.name}-merged")


def check_stored(
    source: TensorSource,
    sites: Mapping[str, AttentionSite],
    ranks: Mapping[str, SiteRanks],
) -> None:
    """Compare the tensors of restructured blocks with the ranks that are declared.

    Raises:
        CheckpointError: A shape differs.
    """
    table = {name: (info.shape, info.dtype.itemsize) for name, info in source.infos.items()}
    for site in sites.values():
        for name in site.tensors():
            if name not in table:
                raise CheckpointError(f"Tensor {name} is missing", where=source.name)
    expected = restructured(table, sites.values(), ranks)
    for name, (shape, _) in expected.items():
        if table[name][0] != shape:
            raise CheckpointError(
                f"The shape of {name} contradicts the surgery block",
                where=source.name,
                found=f"shape {list(table[name][0])}",
                expected=f"shape {list(shape)}",
                hint="config.json and the weights seem to belong to different results",
            )
