"""A checkpoint as it stands: dense or operated on, every tensor accounted for and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from surgery.architectures import (
    Architecture,
    Claims,
    Config,
    LinearMap,
    architecture_of,
    claim,
    linear_maps,
)
from surgery.architectures.classes import names_of
from surgery.architectures.feed_forward import FeedForwardSite, feed_forward_sites
from surgery.checkpoint.quantised import refuse_quantised
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.validate import check_finite
from surgery.errors import CheckpointError, UnsupportedModelError
from surgery.runtime.heads import SiteRanks
from surgery.runtime.parts import LINEAR_METHODS, merged_bias, merged_weight, part_shapes
from surgery.stored.block import (
    Operation,
    read_block,
    read_ranks,
    translated,
)
from surgery.stored.shapes import check_floats, check_stored_shapes

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class TreatedLinear:
    """A linear map with a small part beside it.

    ``parts`` are the names its tensors have in the checkpoint, by the method's own names.
    """

    map: LinearMap
    method: str
    entry: Mapping[str, Any]
    parts: Mapping[str, str]


@dataclass(frozen=True)
class Stored:
    """What a checkpoint holds.

    Attributes:
        source: The checkpoint.
        family: Its family.
        config: Its configuration, as the family reads it.
        claims: The role of every tensor but those of small parts.
        operations: What was done to it, in order.
        ranks: Ranks of the attention blocks that were restructured, by path.
        neurons: Neurons of the feed-forward blocks that config.json does not speak for, by path.
        maps: Every linear map, by path, at the shape it is stored at.
        linears: Those with a small part, by path.
    """

    source: TensorSource
    family: Architecture
    config: Config
    claims: Claims
    operations: tuple[Operation, ...]
    ranks: Mapping[str, SiteRanks]
    neurons: Mapping[str, int]
    maps: Mapping[str, LinearMap]
    linears: Mapping[str, TreatedLinear]

    @cached_property
    def dense_blocks(self) -> tuple[FeedForwardSite, ...]:
        """Every feed-forward block, as wide as config.json says."""
        where = f"{self.source.name}/config.json"
        return feed_forward_sites(self.family, self.config, self.claims, where=where)

    @cached_property
    def blocks(self) -> tuple[FeedForwardSite, ...]:
        """Every feed-forward block, as wide as it is stored."""
        widths = self.neurons
        return tuple(one.at(widths.get(one.path, one.neurons)) for one in self.dense_blocks)

    @cached_property
    def part_tensors(self) -> frozenset[str]:
        """Name of every tensor of a small part."""
        return frozenset(name for linear in self.linears.values() for name in linear.parts.values())

    def tensor(self, name: str) -> Tensor:
        """Return a tensor of the model without its small parts: they are merged in, in float64.

        Tensors of maps that were not treated come as they are stored.

        Raises:
            CheckpointError: What is stored is not finite.
        """
        linear = self.linears.get(name.rpartition(".")[0])
        if linear is None or name not in self.merged_tensors(linear):
            return self.finite(name)
        if name == linear.map.weight:
            weight = self.merged(linear)
            return weight.T if linear.map.transposed else weight
        bias = self.finite(name).double()
        return merged_bias(linear.method, linear.entry, bias, self._parts(linear))

    def merged(self, linear: TreatedLinear) -> Tensor:
        """Return the dense weight ``(out, in)`` of a treated map in float64."""
        stored = self.finite(linear.map.weight)
        weight = stored.T if linear.map.transposed else stored
        parts = self._parts(linear)
        return merged_weight(linear.method, linear.entry, weight.double(), parts)

    def merged_tensors(self, linear: TreatedLinear) -> tuple[str, ...]:
        """Return the tensors that a treated map's small part changes: its weight, or bias too."""
        bias = f"{linear.map.path}.bias"
        behind = LINEAR_METHODS[linear.method].behind and bias in self.source.infos
        return (linear.map.weight, bias) if behind else (linear.map.weight,)

    def _parts(self, linear: TreatedLinear) -> dict[str, Tensor]:
        return {key: self.finite(name).double() for key, name in linear.parts.items()}

    def finite(self, name: str) -> Tensor:
        """Return a tensor as it is stored.

        Raises:
            CheckpointError: It holds what nothing can be computed with.
        """
        tensor = self.source.tensor(name)
        check_finite(name, tensor)
        return tensor


def read_stored(source: TensorSource) -> Stored:
    """Describe a checkpoint, every shape compared with configuration and ``surgery`` block.

    Where the configuration names no model class, the source's then names the one whose tensors
    are stored.

    Raises:
        UnsupportedModelError: Unknown or inexact family, or quantised weights.
        CheckpointError: Tensors, configuration and ``surgery`` block contradict each other.
    """
    raw = source.config
    where = f"{source.name}/config.json"
    family = architecture_of(raw, where=where)
    refuse_quantised(raw, source.infos)
    config = Config(family, raw, where)
    check_config(source)
    manifest = read_block(raw, where=where)
    parts = {
        f"{path}.{part}"
        for path, (method, _) in manifest.linears.items()
        for part in LINEAR_METHODS[method].parts
    }
    names = [name for name in source.infos if name not in parts]
    claims = claim(family, config, names, where=source.name)
    one = claims.model_class
    if one is not None and one.name not in names_of(raw.get("architectures")):
        source.name_class(one.name)  # so that what is made of it can be loaded
    ranks = read_ranks(manifest.layouts, claims.sites, where=where)
    _check_floats(source, claims)
    check_floats(family, source.infos, claims.prefix, where=source.name)
    check_stored_shapes(source, family, config, claims, ranks, manifest.neurons)
    shapes = {name: source.infos[name].shape for name in names}
    maps = {one.path: one for one in linear_maps(family, claims, shapes)}
    linears = {
        path: _treated(source, maps, path, method, entry)
        for path, (method, entry) in manifest.linears.items()
    }
    done, neurons = tuple(manifest.operations), manifest.neurons
    return Stored(source, family, config, claims, done, ranks, neurons, maps, linears)


def check_config(source: TensorSource) -> None:
    """Refuse a configuration by which nothing could be loaded, neither this nor what is made of it.

    Raises:
        CheckpointError: The installed transformers does not take it.
    """
    from surgery.runtime import configuration  # late: it imports transformers

    with translated():
        configuration.check_config(source.config, f"{source.name}/config.json")


def check_loads(source: TensorSource) -> None:
    """Refuse to write what transformers could build no model of, before anything is written.

    Raises:
        CheckpointError: Says what of the configuration is in the way.
    """
    from surgery.runtime.stock import check_built  # late: it imports transformers' models

    with translated():
        check_built(source.config, f"{source.name}/config.json")


def stored_dtype(source: TensorSource) -> str:
    """Return the dtype most parameters are stored in, by torch's name."""
    counts: dict[torch.dtype, int] = {}
    for info in source.infos.values():
        counts[info.dtype] = counts.get(info.dtype, 0) + info.numel
    return str(max(counts, key=lambda dtype: counts[dtype])).removeprefix("torch.")


def output_dtype(source: TensorSource, name: str, asked: str | None) -> torch.dtype:
    """Return the dtype tensor ``name`` is written in where the user asked for ``asked``."""
    stored = source.infos[name].dtype
    if asked is None or not stored.is_floating_point:
        return stored
    dtype: torch.dtype = getattr(torch, asked)
    return dtype


def _check_floats(source: TensorSource, claims: Claims) -> None:
    """Require weights that can be computed with.

    Raises:
        UnsupportedModelError: One holds integers.
    """
    attention = (tensor for site in claims.sites for tensor in site.tensors())
    for name in (*attention, *claims.linears):
        if name in source.infos and source.infos[name].dtype not in FLOATS:
            raise UnsupportedModelError(
                f"Tensor {name} is not a floating-point weight",
                where=source.name,
                found=source.infos[name].dtype,
                expected="float32, float16 or bfloat16",
                hint="use the unquantised checkpoint",
            )


def _treated(
    source: TensorSource,
    maps: Mapping[str, LinearMap],
    path: str,
    method: str,
    entry: Mapping[str, Any],
) -> TreatedLinear:
    """Find a treated map and the tensors of its small part.

    Raises:
        CheckpointError: The map, or a tensor, is missing or has another shape.
    """
    if path not in maps:
        raise CheckpointError(
            "The surgery block names a linear map that the model does not have",
            where=f"{source.name}/config.json",
            found=path,
            hint="the file was edited, or belongs to other weights",
        )
    one = maps[path]
    with translated():
        shapes = part_shapes(method, entry, one.out_features, one.in_features)
    for part, shape in shapes.items():
        info = source.infos.get(f"{path}.{part}")
        if info is None or info.shape != shape or info.dtype not in FLOATS:
            raise CheckpointError(
                f"The small part {path}.{part} does not fit its weight",
                where=source.name,
                found="no such tensor" if info is None else f"{info.dtype} {list(info.shape)}",
                expected=f"float32 {list(shape)}",
                hint="config.json and the weights seem to belong to different results",
            )
    return TreatedLinear(one, method, entry, {part: f"{path}.{part}" for part in shapes})
