"""What the papers add to the loss to keep small parts orthogonal, and how far they are from it.

| method | added to the loss, weight w                       | source                          |
|--------|---------------------------------------------------|---------------------------------|
| sorsa  | w · mean over all U and V of ``‖UᵀU − I‖_F``      | arXiv 2409.00055                |
| hra    | w · Σ over all maps of ``‖UᵀU − I‖_F²``           | arXiv 2405.17484 (paper's form) |
| qgoft  | w · Σ over all maps and blocks of ``⟨α, β⟩²``     | arXiv 2404.04316                |

It is added to every step's loss once, before gradients are clipped, whatever the number of
accumulated micro-batches and of processes; SORSA's published code adds it to the optimiser's step
afterwards instead. Computed in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from surgery.choices.parts import PARTS
from surgery.runtime.penalties import orthonormality_penalty
from surgery.runtime.shards import whole


class Penalty:
    """The regulariser of one method over all maps of a model.

    Args:
        method: ``sorsa``, ``hra`` or ``qgoft``.
        maps: The maps that carry it.
        weight: Its weight in the loss.
    """

    def __init__(self, method: str, maps: Sequence[Any], weight: float) -> None:
        self.method, self.maps, self.weight = method, list(maps), weight

    @property
    def described(self) -> str:
        """What it is, with its weight."""
        return f"{self.weight:g} · {PARTS[self.method].penalty}"

    def __call__(self) -> Tensor:
        """Return what is added to the loss, a float32 scalar."""
        total = torch.stack([one.penalty() for one in self.maps]).sum()
        if self.method == "sorsa":
            total = total / len(self.maps)
        return self.weight * total


@torch.no_grad()
def orthogonality_defect(method: str, parts: Mapping[str, Tensor]) -> float | None:
    """Return how far a map's parts are from orthonormal; ``None`` where nothing is to be so.

    ``‖CᵀC − I‖_F`` of SORSA's U and V, the larger, and of HRA's reflection vectors (√r at its
    start, where they come in equal pairs, though what they reflect is orthogonal always); the
    largest entry of ``BᵀB − I`` over qGOFT's blocks B.
    """
    if method == "sorsa":
        columns = (parts["sorsa_u"], parts["sorsa_vt"].T)
        return max(float(orthonormality_penalty(each, squared=False)) for each in columns)
    if method == "hra":
        return float(orthonormality_penalty(parts["hra_u"], squared=False))
    if method == "qgoft":
        blocks = whole(parts["qgoft_blocks"]).float()
        return float((blocks.mT @ blocks - torch.eye(2, device=blocks.device)).abs().max())
    return None


def worst_defect(maps: Sequence[Any]) -> float | None:
    """Return the largest :func:`orthogonality_defect` of some maps; ``None`` where none has any."""
    found = [orthogonality_defect(one.method, one.parts()) for one in maps]
    return max((value for value in found if value is not None), default=None)
