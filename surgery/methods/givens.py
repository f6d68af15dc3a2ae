"""GOFT and qGOFT (arXiv 2404.04316): Givens rotations along a binary tree before a frozen weight.

``W' = W Rᵀ``, ``R`` the product of ``in − 1`` plane rotations in ``⌈log2 in⌉`` stages. GOFT trains
one angle each; qGOFT a free 2×2 block each, kept near orthogonal by a penalty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from surgery.methods.linear import LinearStart


@dataclass(frozen=True)
class _Givens:
    usual_targets: ClassVar[tuple[str, ...]] = ("q", "k", "v", "o")
    starts_exact: ClassVar[bool] = True

    def entry(self) -> dict[str, Any]:
        """Return nothing: the number of inputs decides everything."""
        return {}

    def check(self, _: int, in_features: int) -> str | None:
        """Refuse a map with one input: there is no pair to rotate."""
        return "one input makes no pair" if in_features < 2 else None


@dataclass(frozen=True)
class Goft(_Givens):
    """GOFT: every angle starts at zero."""

    name: ClassVar[str] = "goft"

    def start(self, weight: Tensor, _: Generator) -> LinearStart:
        """Start at the identity."""
        return LinearStart(weight=None, parts={"goft_angles": torch.zeros(weight.shape[1] - 1)})


@dataclass(frozen=True)
class Qgoft(_Givens):
    """qGOFT: every 2×2 block starts at I₂."""

    name: ClassVar[str] = "qgoft"

    def start(self, weight: Tensor, _: Generator) -> LinearStart:
        """Start at the identity."""
        blocks = torch.eye(2).repeat(weight.shape[1] - 1, 1, 1)
        return LinearStart(weight=None, parts={"qgoft_blocks": blocks})
