"""HRA (arXiv 2405.17484): a chain of Householder reflections in front of a frozen weight.

``W' = W H`` with ``H`` the product of ``I − 2 u uᵀ`` over the unit columns of U. Columns in equal
adjacent pairs cancel: training starts from the weight itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from surgery.choices.settings import HraSettings
from surgery.methods.linear import LinearStart


@dataclass(frozen=True)
class Hra(HraSettings):
    """HRA."""

    name: ClassVar[str] = "hra"
    usual_targets: ClassVar[tuple[str, ...]] = ("q", "v")
    starts_exact: ClassVar[bool] = True

    def entry(self) -> dict[str, Any]:
        """Return the number of reflections."""
        return {"reflections": self.reflections}

    def check(self, _: int, in_features: int) -> str | None:
        """Refuse more distinct reflections than the input has dimensions."""
        if self.reflections > 2 * in_features:
            return f"{self.reflections} reflections, and only {in_features} inputs"
        return None

    def start(self, weight: Tensor, generator: Generator) -> LinearStart:
        """Draw unit columns at random, each one twice."""
        inputs = weight.shape[1]
        columns = torch.randn(
            inputs, self.reflections // 2, generator=generator, dtype=torch.float64
        )
        columns /= torch.linalg.vector_norm(columns, dim=0)
        paired = columns.float().repeat_interleave(2, dim=1).contiguous()
        return LinearStart(weight=None, parts={"hra_u": paired})
