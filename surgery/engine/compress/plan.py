"""Plan: which layers leave, and which blocks lose how many neurons, before a weight is read."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from surgery.architectures.base import Scope
from surgery.architectures.dropping import Layer, check_dropped, layers_of, renamed
from surgery.architectures.feed_forward import (
    FeedForwardSite,
    at_widths,
    width_keys,
)
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.writer import TensorSpec
from surgery.choices.layers import counted_layers, named_layers
from surgery.engine.compress.goal import Goal, counted, one_width
from surgery.engine.compress.options import CompressOptions
from surgery.errors import CheckpointError, UsageError
from surgery.runtime.manifest import FINAL
from surgery.stored.shallower import ShallowerSource
from surgery.stored.stored import Stored, output_dtype, read_stored


@dataclass(frozen=True, eq=False)
class CompressPlan:
    """A checked source, and the width that each of its feed-forward blocks is to have.

    Attributes:
        whole: The source.
        gone: Its layers that leave.
        stored: The source without them, whose names and numbers are those of the result.
        asked: What the user called it.
        options: What was asked for.
        blocks: Its feed-forward blocks.
        sites: Those that lose neurons.
        widths: Neurons that stay, by the path of the block. As a plan is made, one number a
            tower; where each block is to have its own, what real input says replaces them.
        keys: Key of ``config.json`` that holds the width of a tower's blocks.
        goal: How much is to go.
    """

    whole: Stored
    gone: tuple[Layer, ...]
    stored: Stored
    asked: str
    options: CompressOptions
    blocks: tuple[FeedForwardSite, ...]
    sites: tuple[FeedForwardSite, ...]
    widths: Mapping[str, int]
    keys: Mapping[Scope, str]
    goal: Goal

    @property
    def source(self) -> TensorSource:
        """The checkpoint, without the layers that leave."""
        return self.stored.source

    @property
    def wanted(self) -> float:
        """How many parameters are to go beside the layers."""
        return self.goal.wanted

    @property
    def layers(self) -> list[Layer]:
        """Every layer of the whole checkpoint."""
        return layers_of(self.whole.family, self.whole.config, self.whole.claims)

    @property
    def to_choose(self) -> dict[str | None, int]:
        """How many layers are to be chosen on real input, by tower; ``None`` stands for any."""
        return _counted(self.options)

    @cached_property
    def names(self) -> dict[str, str]:
        """By the path of a block its path in the whole checkpoint."""
        gone, whole = {*self.gone}, self.whole.blocks
        stay = (one for one in whole if Layer(one.scope, one.layer) not in gone)
        return {one.path: other.path for one, other in zip(self.blocks, stay, strict=True)}

    @property
    def sites_of_whole(self) -> tuple[FeedForwardSite, ...]:
        """:attr:`sites` by the names and numbers of the whole checkpoint."""
        whole = {one.path: one for one in self.whole.blocks}
        return tuple(whole[self.names[site.path]] for site in self.sites)

    def sizes(self, of: str) -> dict[Layer, int]:
        """Return how many parameters of the ``model``, or of its ``ffn``, are each layer's."""
        whole, found = self.whole, dict[Layer, int]()
        for layer in self.layers:
            without = {layer.scope: (layer.layer,)}
            found[layer] = sum(
                whole.source.infos[name].numel
                for name in counted(whole, of)
                if renamed(whole.family, whole.claims.prefix, name, without) is None
            )
        return found

    def narrowed_to(self, left: Mapping[str, int]) -> CompressPlan:
        """Return the plan with these widths, by the block's path in the whole checkpoint."""
        stored, sites = self.stored, in_scope(self.stored, self.options)
        widths = {site.path: left[self.names[site.path]] for site in sites}
        keys = width_keys(stored.family, stored.config, stored.claims, sites)
        return replace(self, sites=sites, widths=widths, keys=keys)

    @property
    def stock(self) -> dict[Scope, int]:
        """Width of each tower whose blocks are equally wide: ``config.json`` speaks for them."""
        found: dict[Scope, set[int]] = {}
        for site in self.sites:
            found.setdefault(site.scope, set()).add(self.widths[site.path])
        return {scope: max(some) for scope, some in found.items() if len(some) == 1 and max(some)}

    def told(self) -> dict[str, dict[str, int]]:
        """Return what the runtime must know: blocks that ``config.json`` does not speak for.

        Those that an earlier operation spoke of are named again.
        """
        stock, before = self.stock, self.stored.neurons
        return {
            site.path: {"neurons": self.widths[site.path]}
            for site in self.sites
            if site.scope not in stock or site.path in before
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor of the result."""
        shapes = {name: info.shape for name, info in self.source.infos.items()}
        return at_widths(shapes, self.sites, self.widths)

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


def make_plan(
    source: TensorSource,
    options: CompressOptions,
    asked: str | None = None,
    *,
    gone: Sequence[Layer] | None = None,
) -> CompressPlan:
    """Check a dense checkpoint, and choose the widths that remove what is asked for.

    Args:
        source: The checkpoint.
        options: What is asked for.
        asked: What the user called the source; default its name.
        gone: The layers that leave, once they were chosen. Until then the last ones stand for them:
            layers of a tower are of one size.

    Raises:
        CheckpointError: It contradicts itself, or was operated on before.
        UsageError: So much cannot go.
    """
    asked = asked or source.name
    whole = read_stored(source)
    if any(operation["method"] not in FINAL for operation in whole.operations):
        raise CheckpointError(
            "This checkpoint has been operated on already",
            where=source.name,
            hint="operate on the original, or merge this one back first: "
            + shlex.join(["surgery", "merge", asked]),
        )
    leaving = tuple(sorted(_leaving(whole, options) if gone is None else gone))
    stored = read_stored(ShallowerSource(whole, leaving)) if leaving else whole
    goal = Goal(whole, stored, options)
    sites: tuple[FeedForwardSite, ...] = ()
    widths: dict[str, int] = {}
    if goal.wanted > 0:
        sites = in_scope(stored, options)
        shared = options.attention or ("layers" in options.seams and gone is None)
        widths = one_width(sites, goal, alone=not shared)
    keys = width_keys(stored.family, stored.config, stored.claims, sites)
    return CompressPlan(
        whole, leaving, stored, asked, options, stored.blocks, sites, widths, keys, goal
    )


def in_scope(stored: Stored, options: CompressOptions) -> tuple[FeedForwardSite, ...]:
    """Return the blocks that share the budget.

    Raises:
        UsageError: The model has no such tower.
    """
    found = tuple(one for one in stored.blocks if options.scope in ("all", one.scope))
    if not found:
        towers = dict.fromkeys(one.scope for one in stored.blocks)
        raise UsageError(
            f"A {stored.family.title} model has no {options.scope}",
            where="--scope",
            expected=", ".join([*towers, "all"]),
        )
    return found


def _counted(options: CompressOptions) -> dict[str | None, int]:
    """Return how many layers are to be chosen, by tower; ``None`` stands for any in scope."""
    counted = {} if options.layers is None else counted_layers(options.layers)
    own = None if options.scope == "all" else options.scope
    return {tower or own: count for tower, count in counted.items()}


def _leaving(whole: Stored, options: CompressOptions) -> list[Layer]:
    """Return the layers that are named, or the last ones in place of those to be chosen."""
    have = layers_of(whole.family, whole.config, whole.claims)
    scopes = list(dict.fromkeys(layer.scope for layer in have))
    found: list[Layer] = []
    if options.drop_layers is not None:
        for tower, number in named_layers(options.drop_layers):
            if tower is None and len(scopes) > 1:
                raise UsageError(
                    "--drop-layers does not say of which tower",
                    where=whole.source.name,
                    found=options.drop_layers,
                    expected=" or ".join(f"{scope}:{number}" for scope in scopes),
                )
            # a tower that is not there is refused with the layers that are
            scope = next((one for one in scopes if one == tower), tower or scopes[0])
            found.append(Layer(scope, number))  # type: ignore[arg-type]
        check_dropped(have, found, where="--drop-layers")
    for tower, count in _counted(options).items():
        own = [layer for layer in reversed(have) if tower in (None, layer.scope)]
        first = {scope: Layer(scope, 0) for scope in scopes}
        able = [layer for layer in own if layer not in first.values()]
        if count > len(able):
            raise UsageError(
                "There are not so many layers to leave",
                where="--layers",
                found=count,
                expected=f"at most {len(able)}: every tower keeps one",
            )
        found += able[:count]
    return found
