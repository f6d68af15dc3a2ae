"""Give linear maps their small trainable parts: start each one, cast once, write, and report."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from surgery.architectures import LinearMap
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.validate import check_finite
from surgery.checkpoint.writer import TensorSpec
from surgery.engine.block import Operation
from surgery.engine.linear_plan import LinearPlan
from surgery.engine.linear_reporting import Facts, build_linear_report
from surgery.engine.parallel import map_ahead
from surgery.engine.result import AskedFor, Clock
from surgery.engine.stream import Computed, cast, stream
from surgery.events import Event, Progress
from surgery.methods import Treatment
from surgery.report.model import Report
from surgery.runtime.parts import LINEAR_METHODS, part_shapes

ROWS = 1024  # rows of a weight compared at once in float64


class SmallParts:
    """One method about to be applied to the linear maps of one checkpoint.

    Args:
        plan: The checked plan.
    """

    def __init__(self, plan: LinearPlan) -> None:
        self.plan = plan
        self._facts: dict[str, Facts] = {}

    @property
    def source(self) -> TensorSource:
        """The checkpoint."""
        return self.plan.source

    @property
    def options(self) -> AskedFor:
        """What was asked for."""
        return self.plan.options

    @property
    def before(self) -> tuple[Operation, ...]:
        """What was done to the checkpoint before."""
        return self.plan.stored.operations

    def forecast(self, progress: Progress) -> Report:
        """Compute everything and write nothing."""
        paths = [one.path for one in self.plan.maps]
        for index, computed in enumerate(map_ahead(self._start, paths)):
            progress(Event("Computing small parts", index, len(paths), paths[index]))
            self._facts[paths[index]] = computed.payload
        progress(Event("Computing small parts", len(paths), len(paths)))
        return self.report({}, None)

    def write(self, transaction: Transaction, progress: Progress, clock: Clock) -> None:
        """Start every map and write every shard, tensor by tensor."""
        del clock  # one stage: computing and writing overlap
        blocks = {
            name: one.path
            for one in self.plan.maps
            for name in (one.weight, *self._part_names(one))
        }
        stream(self.source, transaction, self.specs(), blocks, self._start, progress)
        for one in self.plan.maps:
            self._facts[one.path] = transaction.payload(f"block:{one.path}")

    def provenance(self) -> dict[str, Any]:
        """Return nothing: weights alone decided."""
        return {}

    def specs(self) -> dict[str, list[TensorSpec]]:
        """Return every tensor of the result, by shard: parts stand behind their weights."""
        chosen = {one.weight: one for one in self.plan.maps}
        result: dict[str, list[TensorSpec]] = {}
        for shard, names in self.source.shards.items():
            specs = result.setdefault(shard, [])
            for name in names:
                dtype = self.plan.output_dtype(name)
                specs.append(TensorSpec(name, dtype, self.source.infos[name].shape))
                if name in chosen:
                    parts = self._part_names(chosen[name])
                    specs += [TensorSpec(n, torch.float32, shape) for n, shape in parts.items()]
        return result

    def sites(self) -> dict[str, Any]:
        """Return the method's entry for every map."""
        return {path: treatment.entry() for path, treatment in self.plan.treatments.items()}

    def report(self, sha256: Mapping[str, str], output: str | None) -> Report:
        """Return the report of what was computed."""
        table = {spec.name: spec for specs in self.specs().values() for spec in specs}
        parts = {one.path: self._part_names(one) for one in self.plan.maps}
        return build_linear_report(
            self.plan, table, self._facts, parts, sha256=sha256, output=output
        )

    def _part_names(self, one: LinearMap) -> dict[str, tuple[int, ...]]:
        """Return name and shape of every tensor of a map's small part."""
        treatment = self.plan.treatments[one.path]
        shapes = part_shapes(treatment.name, treatment.entry(), one.out_features, one.in_features)
        return {f"{one.path}.{part}": shape for part, shape in shapes.items()}

    def _start(self, path: str) -> Computed:
        one = self.plan.stored.maps[path]
        stored = self.source.tensor(one.weight)
        check_finite(one.weight, stored)
        weight = stored.T if one.transposed else stored
        treatment = self.plan.treatments[path]
        start = treatment.start(weight, self._generator(one.weight))
        frozen = weight if start.weight is None else start.weight
        written = cast(one.weight, frozen, self.plan.output_dtype(one.weight))
        facts: Facts = {
            "spectrum": [] if start.spectrum is None else start.spectrum.tolist(),
            "captured": start.captured,
            "shortfall": start.shortfall,
            "defect": start.defect,
            "start_error": _start_error(treatment, weight, written, start.parts),
        }
        tensors = {one.weight: (written.T if one.transposed else written).contiguous()}
        tensors |= {f"{path}.{part}": tensor for part, tensor in start.parts.items()}
        self.source.release(one.weight)
        return Computed(tensors, facts)

    def _generator(self, name: str) -> torch.Generator:
        """Return randomness of a map's own, whatever order maps are computed in."""
        seed = zlib.crc32(name.encode(), self.plan.seed & 0xFFFFFFFF)
        return torch.Generator().manual_seed(seed)


def _start_error(
    treatment: Treatment, weight: Tensor, written: Tensor, parts: Mapping[str, Tensor]
) -> float | None:
    """Return how far the result is from the weight, in float64, a few rows at a time.

    ``None`` where it is meant to be another one: a small part that was trained elsewhere.
    """
    if not treatment.starts_exact:
        return None
    form = LINEAR_METHODS[treatment.name]
    wide = {name: part.double() for name, part in parts.items()}
    difference = norm = 0.0
    for begin in range(0, len(weight), ROWS):
        rows = slice(begin, begin + ROWS)
        original = weight[rows].double()
        cut = {name: part[rows] if name in form.by_output else part for name, part in wide.items()}
        merged = form.merge(treatment.entry(), written[rows].double(), cut)
        difference += float((merged - original).square().sum())
        norm += float(original.square().sum())
    return math.sqrt(difference / norm if norm else difference)
