"""From a plan for linear maps and what was computed to the report every view is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TypedDict

from surgery.checkpoint.writer import TensorSpec
from surgery.engine.parts.linear_plan import PartsPlan
from surgery.report.accounting import told_source
from surgery.report.model.report import LinearReport, Report, Trainable
from surgery.stored.stored import stored_dtype
from surgery.version import versions


class Facts(TypedDict):
    """What became known of one map, as JSON values; see :class:`LinearReport`."""

    spectrum: list[float]
    captured: float | None
    shortfall: float | None
    defect: float | None
    start_error: float | None


def build_linear_report(
    plan: PartsPlan,
    table: Mapping[str, TensorSpec],
    facts: Mapping[str, Facts],
    parts: Mapping[str, Mapping[str, tuple[int, ...]]],
    *,
    sha256: Mapping[str, str],
    output: str | None,
) -> Report:
    """Assemble the report.

    Args:
        plan: What was asked for.
        table: Every tensor of the result, by name.
        facts: What became known of each map, by path.
        parts: Shapes of each map's small tensors, by path and name.
        sha256: Hashes of the source's files.
        output: Where the result was written; ``None`` when nothing was.
    """
    source, options = plan.source, plan.options
    numbers = {
        path: sum(prod(shape) for shape in shapes.values()) for path, shapes in parts.items()
    }
    trainable = sum(numbers.values())
    return Report(
        title=f"{source.name}: {plan.title}",
        method=plan.method,
        options=options.plain(),
        preset=None,
        source=told_source(source, stored_dtype(source), sha256),
        versions=versions(),
        sites=[],
        savings=[],
        quantities=[],
        notes=_notes(plan),
        output=output,
        linears=[
            LinearReport(
                path=one.path,
                role=one.role,
                scope=one.scope,
                layer=one.layer,
                out_features=one.out_features,
                in_features=one.in_features,
                trainable=numbers[one.path],
                **facts[one.path],
            )
            for one in plan.maps
        ],
        trainable=Trainable(
            trainable=trainable,
            frozen=sum(spec.numel for spec in table.values()) - trainable,
            before=sum(info.numel for info in source.infos.values()),
            bytes_before=sum(i.numel * i.dtype.itemsize for i in source.infos.values()),
            bytes_after=sum(spec.nbytes for spec in table.values()),
            adapter_bytes=4 * trainable,
        ),
    )


def _notes(plan: PartsPlan) -> list[str]:
    notes = []
    if plan.stored.operations:
        done = ", ".join(operation["method"] for operation in plan.stored.operations)
        notes.append(f"Operated on before: {done}. `surgery merge --steps 1` takes back the last.")
    if any(len(one.roles) > 1 for one in plan.maps):
        roles = next(one.role for one in plan.maps if len(one.roles) > 1)
        notes.append(f"{roles} are stored as one fused map, and were treated as one.")
    return notes
