"""Give linear maps their small trainable parts: start each one, cast once, write, and report."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from surgery.checkpoint.validate import check_finite
from surgery.engine.parts.linear_plan import LinearPlan
from surgery.engine.parts.linear_reporting import Facts
from surgery.engine.parts.parts_surgery import PartsSurgery
from surgery.methods import Treatment
from surgery.runtime.parts import LINEAR_METHODS
from surgery.stored.stream import Computed, cast

ROWS = 1024  # rows of a weight compared at once in float64


class SmallParts(PartsSurgery):
    """One method about to be applied to the linear maps of one checkpoint, map by map.

    Args:
        plan: The checked plan.
    """

    def __init__(self, plan: LinearPlan) -> None:
        super().__init__()
        self._plan = plan

    @property
    def plan(self) -> LinearPlan:
        """The checked plan."""
        return self._plan

    def blocks(self) -> dict[str, str]:
        """Return which map each computed tensor belongs to."""
        return {
            name: one.path
            for one in self.plan.maps
            for name in (one.weight, *self.plan.part_names(one))
        }

    def compute(self, block: str) -> Computed:
        """Start one map."""
        one = self.plan.stored.maps[block]
        stored = self.source.tensor(one.weight)
        check_finite(one.weight, stored)
        weight = stored.T if one.transposed else stored
        treatment = self.plan.treatments[block]
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
        tensors |= {f"{block}.{part}": tensor for part, tensor in start.parts.items()}
        self.source.release(one.weight)
        return Computed(tensors, {block: facts})

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
