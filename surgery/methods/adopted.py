"""A small part that was trained elsewhere, and the frozen weight that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from surgery.methods.linear import LinearStart


@dataclass(frozen=True, eq=False)
class Adopted:
    """Tensors of a small part as they come.

    Attributes:
        name: The method that runs them.
        settings: What the runtime must know about the map.
        parts: The tensors, by the method's names.
        shape: Rows and columns of the weight that the tensors belong to; ``None`` where the
            number of rows does not matter.
        principal: Factors ``(out, r)`` and ``(r, in)`` whose product the frozen weight lacks.
        principal_rank: Instead of ``principal``: it lacks its own best part of this rank.
    """

    name: str
    settings: Mapping[str, Any]
    parts: Mapping[str, Tensor]
    shape: tuple[int | None, int]
    principal: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    principal_rank: int | None = None
    usual_targets: ClassVar[tuple[str, ...]] = ()
    starts_exact: ClassVar[bool] = False

    def entry(self) -> dict[str, Any]:
        """Return the settings."""
        return dict(self.settings)

    def check(self, out_features: int, in_features: int, /) -> str | None:
        """Refuse maps of another shape."""
        rows, columns = self.shape
        if columns != in_features or rows not in (None, out_features):
            return f"the adapter is made for {rows or out_features} × {columns}"
        return None

    def start(self, weight: Tensor, _: Generator, /) -> LinearStart:
        """Take what the frozen weight lacks out of the weight, in float32 as PEFT does."""
        frozen = None
        working = weight.float()
        if self.principal is not None:
            left, right = self.principal
            frozen = working - left @ right
        elif self.principal_rank is not None:
            u, s, vt = torch.linalg.svd(working, full_matrices=False)
            r = self.principal_rank
            frozen = working - (u[:, :r] * s[:r]) @ vt[:r]
        return LinearStart(weight=frozen, parts=dict(self.parts))
