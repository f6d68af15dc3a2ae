"""How far training moved each map: its singular values, and the weight that it stands for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from surgery.checkpoint.source import TensorSource
from surgery.report.model.tuning import Moved
from surgery.runtime.parts import merged_weight
from surgery.stored.stored import TreatedLinear
from surgery.training.penalty import orthogonality_defect

Parts = Mapping[str, Tensor]


@torch.no_grad()
def moved_maps(
    source: TensorSource,
    linears: Mapping[str, TreatedLinear],
    before: Mapping[str, Parts],
    after: Mapping[str, Parts],
) -> list[Moved]:
    """Compare every trained map with what it was.

    Args:
        source: The base, for the frozen weights.
        linears: The maps, by path.
        before: Parts at the start, by map path and name.
        after: Parts at the end.
    """
    return [
        Moved(
            path=path,
            role=linear.map.role,
            scope=linear.map.scope,
            layer=linear.map.layer,
            before=singular_values(linear.method, linear.entry, before[path]),
            after=singular_values(linear.method, linear.entry, after[path]),
            change=_change(source, linear, before[path], after[path]),
            defect=orthogonality_defect(linear.method, after[path]),
        )
        for path, linear in linears.items()
        if path in after
    ]


def singular_values(method: str, entry: Mapping[str, object], parts: Parts) -> list[float]:
    """Return the singular values that a map's parts stand for; empty where they have none.

    Of ``diagonal`` and ``core`` head by head, each descending; of ``sorsa`` and ``pissa`` those
    of the principal part. Orthogonal maps in front of a weight leave its singular values alone.
    """
    if method == "sorsa":
        return parts["sorsa_s"].double().abs().sort(descending=True).values.tolist()
    if method == "pissa":
        return _product_values(parts["pissa_b"].double(), parts["pissa_a"].double())
    if method == "diagonal":
        shared = int(entry["shared"])  # type: ignore[call-overload]  # checked when it was read
        blocks = [size // shared for size in entry["blocks"]]  # type: ignore[attr-defined]
        values = parts["singular_values"].double().abs()
        pieces = [piece.sort(descending=True).values for piece in torch.split(values, blocks)]
        return torch.cat(pieces).tolist()
    if method == "core":
        sizes = [int(size) for size in entry["blocks"]]  # type: ignore[attr-defined]
        flat = torch.split(parts["core_blocks"].double(), [size * size for size in sizes])
        pieces = [
            torch.linalg.svdvals(piece.view(size, size))
            for piece, size in zip(flat, sizes, strict=True)
        ]
        return torch.cat(pieces).tolist()
    return []


def _product_values(left: Tensor, right: Tensor) -> list[float]:
    """Return the singular values of ``left right`` by way of the small core."""
    core = torch.linalg.qr(left).R @ torch.linalg.qr(right.T).R.T
    values: list[float] = torch.linalg.svdvals(core).tolist()
    return values


def _change(source: TensorSource, linear: TreatedLinear, before: Parts, after: Parts) -> float:
    weight = source.tensor(linear.map.weight).float()
    if linear.map.transposed:
        weight = weight.T
    first, last = (
        merged_weight(linear.method, linear.entry, weight, parts) for parts in (before, after)
    )
    norm = float(torch.linalg.vector_norm(first))
    difference = float(torch.linalg.vector_norm(last - first))
    return difference / norm if norm else difference
