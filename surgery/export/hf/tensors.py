"""The tensors of a smaller model in one of transformers' own classes, computed block by block."""

from __future__ import annotations

from collections.abc import Mapping

from surgery.checkpoint.writer import TensorSpec
from surgery.export.hf.forms import Native
from surgery.report.accounting import restructured
from surgery.stored.merged import MergedTensors
from surgery.stored.pack import read_site, write_site
from surgery.stored.stored import Stored
from surgery.stored.stream import Computed, cast

BUFFER = ".rotary_emb.inv_freq"
"""Frequencies that old checkpoints store: no longer those of the result."""


class NativeTensors:
    """Every head padded to the form's widths, small parts merged.

    Args:
        stored: The checkpoint.
        form: What it is made.
        widths: Neurons that feed-forward blocks are filled up to, by path.
    """

    def __init__(self, stored: Stored, form: Native, widths: Mapping[str, int]) -> None:
        self._stored, self._form = stored, form
        self._merged = MergedTensors.pruned(stored, widths)
        self._sites = {site.path: site for site in stored.claims.sites}

    def blocks(self) -> dict[str, str]:
        """Return which block each tensor that changes belongs to."""
        blocks = self._merged.blocks()
        for path, site in self._sites.items():
            blocks |= dict.fromkeys(site.tensors(), path)
        return blocks

    def specs(self) -> dict[str, list[TensorSpec]]:
        """Return every tensor of the result, by shard."""
        before = self._merged.specs()
        table = {spec.name: (spec.shape, 0) for shard in before.values() for spec in shard}
        ranks = {path: self._form.ranks(site) for path, site in self._sites.items()}
        shapes = restructured(table, self._sites.values(), ranks)
        return {
            shard: [
                TensorSpec(spec.name, spec.dtype, shapes[spec.name][0])
                for spec in specs
                if not spec.name.endswith(BUFFER)
            ]
            for shard, specs in before.items()
        }

    def compute(self, path: str) -> Computed:
        """Return a block's tensors as they will be written, in the stored dtypes."""
        site = self._sites.get(path)
        if site is None:
            return self._merged.compute(path)
        weights = read_site(self._stored.tensor, site, self._stored.ranks.get(path))
        tensors = write_site(weights, site, self._form.ranks(site))
        for name in (site.q.weight, site.q.bias):
            if name is not None and self._form.scale != 1:
                tensors[name] = tensors[name] * self._form.scale
        infos = self._stored.source.infos
        return Computed({name: cast(name, one, infos[name].dtype) for name, one in tensors.items()})
