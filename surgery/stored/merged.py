"""A checkpoint's tensors once some of its operations are merged back, computed block by block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

import torch
from torch import Tensor

from surgery.architectures.feed_forward import FeedForwardSite, at_widths
from surgery.checkpoint.writer import TensorSpec
from surgery.report.accounting import full_ranks, restructured
from surgery.runtime.heads import SiteRanks
from surgery.runtime.manifest import ABSORB_DECOMPOSE
from surgery.stored.block import Operation
from surgery.stored.pack import read_site, write_site
from surgery.stored.stored import Stored
from surgery.stored.stream import Computed, cast


class MergedTensors:
    """The model that a checkpoint computes, with plainer weights.

    Attention blocks are computed whole, other linear maps alone.

    Args:
        stored: The checkpoint.
        gone: The operations that go: all for dense weights, those that are not Absorb-Decompose
            for plain weights at the ranks that are stored.
        widths: Neurons that feed-forward blocks are filled up to with zeros, by path; others stay
            as they are.
    """

    def __init__(
        self, stored: Stored, gone: Iterable[Operation], widths: Mapping[str, int] | None = None
    ) -> None:
        self.stored = stored
        gone = list(gone)
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
        self._widths = dict(widths or {})
        self._filled = {one.path: one for one in stored.blocks if one.path in self._widths}
        self._blocks = self.blocks()
        # Tensors of one block are mostly asked for one after another.
        self._computed = lru_cache(maxsize=2)(self.compute)

    @classmethod
    def dense(cls, stored: Stored) -> MergedTensors:
        """Return dense weights: original shapes, zeros where vectors or neurons were cut."""
        widths = {
            one.path: one.neurons for one in stored.dense_blocks if one.path in stored.neurons
        }
        return cls(stored, stored.operations, widths)

    @classmethod
    def pruned(cls, stored: Stored, widths: Mapping[str, int] | None = None) -> MergedTensors:
        """Return plain weights at the ranks that are stored: only small parts are merged."""
        gone = [one for one in stored.operations if one["method"] != ABSORB_DECOMPOSE]
        return cls(stored, gone, widths)

    def blocks(self) -> dict[str, str]:
        """Return which block each tensor that changes belongs to."""
        found = {
            name: path
            for path, one in self._linears.items()
            for name in self.stored.merged_tensors(one)
        }
        for path, site in self._sites.items():
            found |= dict.fromkeys(site.tensors(), path)
        for path, block in self._filled.items():
            found |= dict.fromkeys(block.axes(), path)
        return found

    def specs(self) -> dict[str, list[TensorSpec]]:
        """Return every tensor of the result, by shard; merged parts are gone."""
        source = self.stored.source
        gone = {name for one in self._linears.values() for name in one.parts.values()}
        table = {name: (info.shape, 0) for name, info in source.infos.items()}
        after = restructured(table, self._sites.values(), self._full)
        shapes = {name: shape for name, (shape, _) in after.items()}
        shapes = at_widths(shapes, self._filled.values(), self._widths)
        return {
            shard: [
                TensorSpec(name, source.infos[name].dtype, shapes[name])
                for name in names
                if name not in gone
            ]
            for shard, names in source.shards.items()
        }

    def compute(self, path: str) -> Computed:
        """Return a block's tensors as they will be written, in the stored dtypes."""
        if path in self._sites:
            site = self._sites[path]
            dense = read_site(self.stored.tensor, site, self.stored.ranks[path])
            tensors = write_site(dense, site, self._full[path])
        elif path in self._filled:
            tensors = self._fill(self._filled[path])
        else:
            names = self.stored.merged_tensors(self._linears[path])
            tensors = {name: self.stored.tensor(name) for name in names}
        infos = self.stored.source.infos
        return Computed({name: cast(name, t, infos[name].dtype) for name, t in tensors.items()})

    def _fill(self, block: FeedForwardSite) -> dict[str, Tensor]:
        """Return a block's tensors with zeros for the neurons that it lacks."""
        found = {}
        for name, (axis, times) in block.axes().items():
            linear = self.stored.linears.get(name.rpartition(".")[0])
            merges = linear is not None and linear.map.path in self._linears
            tensor = (self.stored if merges else self.stored.source).tensor(name)
            pieces = []
            for piece in tensor.chunk(times, dim=axis):
                shape = list(piece.shape)
                shape[axis] = self._widths[block.path] - shape[axis]
                pieces += [piece, piece.new_zeros(shape)]
            found[name] = torch.cat(pieces, dim=axis)
        return found

    def tensor(self, name: str) -> Tensor:
        """Return one tensor of the result in its stored dtype.

        Raises:
            CheckpointError: There is no such tensor, or it does not fit its dtype.
        """
        block = self._blocks.get(name)
        if block is None:
            return cast(name, self.stored.finite(name), self.stored.source.infos[name].dtype)
        return self._computed(block).tensors[name]
