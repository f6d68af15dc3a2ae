"""Back towards plain dense weights, as many operations as asked for, the last one first."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from surgery.architectures.ranks import SiteRanks, full_ranks
from surgery.checkpoint.transaction import Transaction, check_separate
from surgery.checkpoint.writer import TensorSpec
from surgery.engine.adapted import AdaptedSource, open_model
from surgery.engine.block import ABSORB_DECOMPOSE, Operation, surgery_block
from surgery.engine.pack import read_site, write_site
from surgery.engine.result import beside, versions
from surgery.engine.stored import Stored, read_stored
from surgery.engine.stream import Computed, cast, stream
from surgery.errors import UsageError
from surgery.events import Progress, ignore
from surgery.report.accounting import restructured

CARD = """# {name}, merged

{what}

Made from: {source}
"""
DENSE = """The dense form of a checkpoint that was operated on with model-surgery: original shapes,
small parts merged into their weights, zeros where vectors were cut. It computes what that
checkpoint computes, loads without the package, and saves nothing at run time."""
PARTLY = """The last operations ({steps}) of a checkpoint made with model-surgery, merged back: it
computes what that checkpoint computes. Still in place: {left}. Load it with `surgery.load`."""
WHOLE = """In place: {left}. Load it with `surgery.load`."""
TUNED = """What was trained in {adapter} is in the weights of its base, {base}.

"""


def merge(
    checkpoint: str | Path,
    out: str | Path | None = None,
    *,
    base: str | Path | None = None,
    steps: int | None = None,
    force: bool = False,
    resume: bool = False,
    progress: Progress = ignore,
) -> Path:
    """Write a checkpoint that computes the same as one that was operated on, with plainer weights.

    Args:
        checkpoint: A directory that surgery wrote: a checkpoint, or an adapter on its base.
        out: Result directory; ``<checkpoint>-merged`` by default.
        base: The base of an adapter, if it is not where it was.
        steps: How many operations to merge back, from the last one; all of them by default,
            which leaves a dense checkpoint that any transformers loads. For an adapter also 0,
            which only puts it into its base.
        force: Replace a result that is in the way.
        resume: Go on from an interrupted run.
        progress: Called with :class:`surgery.events.Event`.

    Returns:
        The result directory.

    Raises:
        UsageError: The checkpoint is dense already, or has fewer operations than ``steps``.
        CheckpointError: Its tensors contradict its ``surgery`` block, or the base is another
            one than the adapter was trained on.
    """
    with open_model(checkpoint, base=base, progress=progress) as source:
        stored = read_stored(source)
        merging = _Merging(stored, _checked_steps(stored, steps))
        target = Path(out) if out is not None else beside(source, "merged")
        check_separate(source.directory, target)
        if isinstance(source, AdaptedSource):
            check_separate(source.base.directory, target)
        fingerprint = {
            "source": source.identity(),
            "merge": merging.steps,
            "versions": versions(),
        }
        with Transaction(target, fingerprint, resume=resume, force=force) as transaction:
            stream(
                source, transaction, merging.specs(), merging.blocks(), merging.compute, progress
            )
            source.write_sidecars(transaction.staging)
            raw = source.config
            raw.pop("surgery", None)
            left = stored.operations[: len(stored.operations) - merging.steps]
            if left:
                raw["surgery"] = surgery_block(left)
            transaction.write_text("config.json", json.dumps(raw, indent=2) + "\n")
            transaction.write_text("README.md", _card(stored, target.name, merging.steps))
            transaction.commit()
        return target


def _checked_steps(stored: Stored, steps: int | None) -> int:
    done, adapted = len(stored.operations), isinstance(stored.source, AdaptedSource)
    if not done and not adapted:
        raise UsageError(
            "This checkpoint is dense already: there is nothing to merge",
            where=f"{stored.source.name}/config.json",
        )
    least = 0 if adapted else 1
    if steps is not None and not least <= steps <= done:
        raise UsageError(
            "There are not as many operations to merge back",
            where="--steps",
            found=steps,
            expected=f"{least} to {done}: {', '.join(_methods(stored.operations))}",
        )
    return done if steps is None else steps


def _methods(operations: Iterable[Operation]) -> list[str]:
    return [operation["method"] for operation in operations]


def _card(stored: Stored, name: str, steps: int) -> str:
    left = stored.operations[: len(stored.operations) - steps]
    what = DENSE
    if left and steps == 0:
        what = WHOLE.format(left=", ".join(_methods(left)))
    elif left:
        what = PARTLY.format(steps=steps, left=", ".join(_methods(left)))
    made_from = stored.source.name
    if isinstance(stored.source, AdaptedSource):
        made_from = stored.source.adapter.base_name
        what = TUNED.format(adapter=stored.source.name, base=made_from) + what
    first = stored.operations[0].get("provenance", {}) if stored.operations else {}
    return CARD.format(name=name, what=what, source=first.get("source", made_from))


class _Merging:
    """What the last operations treated, block by block: attention blocks whole, maps alone.

    Args:
        stored: The checkpoint.
        steps: How many operations go.
    """

    def __init__(self, stored: Stored, steps: int) -> None:
        self.stored = stored
        self.steps = steps
        gone = stored.operations[len(stored.operations) - steps :]
        paths = {path for operation in gone for path in operation["sites"]}
        cut = {
            path
            for operation in gone
            if operation["method"] == ABSORB_DECOMPOSE
            for path in operation["sites"]
        }
        self._linears = {path: one for path, one in stored.linears.items() if path in paths}
        self._sites = {site.path: site for site in stored.claims.sites if site.path in cut}
        self._full: dict[str, SiteRanks] = {
            path: full_ranks(site) for path, site in self._sites.items()
        }

    def blocks(self) -> dict[str, str]:
        """Return which block each tensor that changes belongs to."""
        found = {
            name: path
            for path, one in self._linears.items()
            for name in self.stored.merged_tensors(one)
        }
        for path, site in self._sites.items():
            found |= dict.fromkeys(site.tensors(), path)
        return found

    def specs(self) -> dict[str, list[TensorSpec]]:
        """Return every tensor of the result, by shard; merged parts are gone."""
        source = self.stored.source
        gone = {name for one in self._linears.values() for name in one.parts.values()}
        table = {name: (info.shape, 0) for name, info in source.infos.items()}
        shapes = restructured(table, self._sites.values(), self._full)
        return {
            shard: [
                TensorSpec(name, source.infos[name].dtype, shapes[name][0])
                for name in names
                if name not in gone
            ]
            for shard, names in source.shards.items()
        }

    def compute(self, path: str) -> Computed:
        """Return a block's tensors as they will be written."""
        if path in self._sites:
            site = self._sites[path]
            dense = read_site(self.stored.tensor, site, self.stored.ranks[path])
            tensors = write_site(dense, site, self._full[path])
        else:
            names = self.stored.merged_tensors(self._linears[path])
            tensors = {name: self.stored.tensor(name) for name in names}
        infos = self.stored.source.infos
        return Computed({name: cast(name, t, infos[name].dtype) for name, t in tensors.items()})
