"""Plan: which blocks lose how many neurons, from shapes alone, before a weight is read."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch

from surgery.architectures.base import Scope
from surgery.architectures.classes import expected
from surgery.architectures.feed_forward import (
    FeedForwardSite,
    feed_forward_seam,
    feed_forward_sites,
)
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.writer import TensorSpec
from surgery.engine.compress.options import CompressOptions
from surgery.errors import CheckpointError, UsageError
from surgery.runtime.manifest import COMPRESS
from surgery.stored.stored import Stored, output_dtype, read_stored


@dataclass(frozen=True, eq=False)
class CompressPlan:
    """A checked dense source, and the width that the blocks of each tower are to have.

    Attributes:
        stored: The source.
        asked: What the user called it.
        options: What was asked for.
        sites: Its feed-forward blocks.
        widths: Neurons that stay, by tower.
        keys: Key of ``config.json`` that holds the width of a tower's blocks.
    """

    stored: Stored
    asked: str
    options: CompressOptions
    sites: tuple[FeedForwardSite, ...]
    widths: Mapping[Scope, int]
    keys: Mapping[Scope, str]

    @property
    def source(self) -> TensorSource:
        """The checkpoint."""
        return self.stored.source

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor of the result."""
        shapes = {name: info.shape for name, info in self.source.infos.items()}
        for site in self.sites:
            for name, axis in neuron_axes(site).items():
                shape = list(shapes[name])
                shape[axis] = self.widths[site.scope]
                shapes[name] = tuple(shape)
        return shapes

    def specs(self) -> dict[str, list[TensorSpec]]:
        """Return name, dtype and shape of every tensor of the result, by shard."""
        shapes = self.shapes()
        return {
            shard: [TensorSpec(name, self.dtype(name), shapes[name]) for name in names]
            for shard, names in self.source.shards.items()
        }

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype a tensor is written in."""
        return output_dtype(self.source, name, self.options.dtype)


def neuron_axes(site: FeedForwardSite) -> dict[str, int]:
    """Return which axis of each tensor of a block is its neurons'; biases of down have none."""
    axes: dict[str, int] = {}
    for role, stored in site.projections().items():
        outputs = role != "down"
        axes[stored.weight] = int(outputs == stored.transposed)
        if outputs and stored.bias is not None:
            axes[stored.bias] = 0
    return axes


def make_plan(
    source: TensorSource, options: CompressOptions, asked: str | None = None
) -> CompressPlan:
    """Check a dense checkpoint, and choose the widths that remove what is asked for.

    Args:
        source: The checkpoint.
        options: What is asked for.
        asked: What the user called the source; default its name.

    Raises:
        CheckpointError: It contradicts itself, or was operated on before.
        UsageError: So much cannot go.
    """
    asked = asked or source.name
    stored = read_stored(source)
    if any(operation["method"] != COMPRESS for operation in stored.operations):
        raise CheckpointError(
            "This checkpoint has been operated on already",
            where=source.name,
            hint="operate on the original, or merge this one back first: "
            + shlex.join(["surgery", "merge", asked]),
        )
    sites = feed_forward_sites(stored.family, stored.config, stored.claims, where=source.name)
    widths = _widths(sites, options, _base(source, sites, options))
    return CompressPlan(stored, asked, options, sites, widths, _keys(stored, sites))


def _base(source: TensorSource, sites: Sequence[FeedForwardSite], options: CompressOptions) -> int:
    """Return how many parameters the share is of."""
    infos = source.infos
    names = infos if options.of == "model" else [n for site in sites for n in site.tensors()]
    return sum(prod(infos[name].shape) for name in names)


def _widths(
    sites: Sequence[FeedForwardSite], options: CompressOptions, base: int
) -> dict[Scope, int]:
    """Return one width for each tower: that with most of its neurons left loses a step next."""
    towers: dict[Scope, list[FeedForwardSite]] = {}
    for site in sites:
        towers.setdefault(site.scope, []).append(site)
    full = {scope: held[0].neurons for scope, held in towers.items()}
    cost = {
        scope: sum(feed_forward_seam(site).cost for site in held) for scope, held in towers.items()
    }
    widths, step, wanted, removed = dict(full), options.multiple, options.remove * base, 0
    while True:
        able = [scope for scope, width in widths.items() if width > step]
        if not able:
            break
        scope = max(able, key=lambda one: widths[one] / full[one])
        narrower = (widths[scope] - 1) // step * step
        saved = (widths[scope] - narrower) * cost[scope]
        if removed > 0 and wanted - removed < saved / 2:
            return widths
        widths[scope], removed = narrower, removed + saved
    if wanted - removed > 0:
        raise UsageError(
            "More is to be removed than feed-forward blocks hold",
            where="--remove",
            found=f"{options.remove:.1%} of {base:,} parameters",
            expected=f"at most {removed / base:.1%}: every block keeps {step} neurons",
            hint="remove less, or lower --multiple",
        )
    return widths


def _keys(stored: Stored, sites: Sequence[FeedForwardSite]) -> dict[Scope, str]:
    """Return where config.json says the width of each tower's blocks."""
    family = stored.family
    told = expected(family, stored.config, stored.claims.model_class)
    keys: dict[Scope, str] = {}
    for site in sites:
        below = site.up.weight.removeprefix(stored.claims.prefix)
        name = str(told[below][int(site.up.transposed)])
        keys[site.scope] = family.aliases.get(name, name)
    return keys
