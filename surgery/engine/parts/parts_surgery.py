"""What every surgery that leaves small parts behind has in common: forecast, write, report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.writer import TensorSpec
from surgery.engine.asked import AskedFor
from surgery.engine.parts.linear_plan import PartsPlan
from surgery.engine.parts.linear_reporting import Facts, build_linear_report
from surgery.engine.result import Clock
from surgery.events import Event, Progress
from surgery.report.model.report import Report
from surgery.stored.block import Operation
from surgery.stored.parallel import map_ahead
from surgery.stored.stream import Computed, stream


class PartsSurgery(ABC):
    """A checked plan about to be carried out, block by block.

    A block is what is computed together: a map, or an attention block whole.
    """

    def __init__(self) -> None:
        self._facts: dict[str, Facts] = {}

    @property
    @abstractmethod
    def plan(self) -> PartsPlan:
        """The checked plan."""

    @abstractmethod
    def blocks(self) -> dict[str, str]:
        """Return which block each computed tensor belongs to."""

    @abstractmethod
    def compute(self, block: str) -> Computed:
        """Return a block's tensors as written, and the facts of its maps, by path."""

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
        blocks = list(dict.fromkeys(self.blocks().values()))
        for index, computed in enumerate(map_ahead(self.compute, blocks)):
            progress(Event("Computing small parts", index, len(blocks), blocks[index]))
            self._facts |= computed.payload
        progress(Event("Computing small parts", len(blocks), len(blocks)))
        return self.report({}, None)

    def write(self, transaction: Transaction, progress: Progress, clock: Clock) -> None:
        """Compute every block and write every shard, tensor by tensor."""
        del clock  # one stage: computing and writing overlap
        blocks = self.blocks()
        stream(self.source, transaction, self.specs(), blocks, self.compute, progress)
        for block in dict.fromkeys(blocks.values()):
            self._facts |= transaction.payload(f"block:{block}")

    def provenance(self) -> dict[str, Any]:
        """Return nothing: weights alone decided."""
        return {}

    def specs(self) -> dict[str, list[TensorSpec]]:
        """Return every tensor of the result, by shard."""
        return self.plan.specs()

    def sites(self) -> dict[str, Any]:
        """Return the method's entry for every map."""
        return {one.path: self.plan.entry(one.path) for one in self.plan.maps}

    def report(self, sha256: Mapping[str, str], output: str | None) -> Report:
        """Return the report of what was computed."""
        table = {spec.name: spec for specs in self.specs().values() for spec in specs}
        parts = {one.path: self.plan.part_names(one) for one in self.plan.maps}
        return build_linear_report(
            self.plan, table, self._facts, parts, sha256=sha256, output=output
        )
