"""SORSA and PiSSA: the top of a weight's SVD becomes trainable, the rest stays frozen.

``W = scale·W_p + W_r`` with ``W_p`` the best part of rank r. SORSA (arXiv 2409.00055) trains its
U, S and V as they are; PiSSA (arXiv 2404.02948) shares S evenly between two factors. The split
is the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from surgery.choices.settings import SplitSettings
from surgery.linalg import TruncatedSVD, truncated_svd
from surgery.methods.linear import LinearStart

ROWS = 1024  # rows of a weight that are subtracted at once, in float64


@dataclass(frozen=True)
class _Split(SplitSettings, ABC):
    """A split, whatever its factors."""

    usual_targets: ClassVar[tuple[str, ...]] = ()
    starts_exact: ClassVar[bool] = True

    def entry(self) -> dict[str, Any]:
        """Return rank and scale."""
        return {"rank": self.rank, "scale": self.scale}

    def check(self, out_features: int, in_features: int) -> str | None:
        """Refuse ranks beyond the smaller side."""
        most = min(out_features, in_features)
        if self.rank > most:
            return f"rank {self.rank} exceeds {most}, the smaller side"
        return None

    @abstractmethod
    def parts(self, svd: TruncatedSVD) -> dict[str, Tensor]:
        """Return the trainable tensors that hold the principal part."""

    @abstractmethod
    def factors(self, parts: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return ``(out, r)`` and ``(r, in)`` whose product is the principal part, float64."""

    def start(self, weight: Tensor, generator: Generator) -> LinearStart:
        """Split one weight; the residual belongs to the principal part as it is written."""
        working = weight if weight.dtype == torch.float64 else weight.float()
        svd = truncated_svd(
            working, self.rank, method=self.solver, tolerance=self.tolerance, generator=generator
        )
        parts = self.parts(svd)
        left, right = self.factors(parts)
        residual = torch.empty_like(working)
        for rows in _blocks(len(residual)):
            # The float32 factors are what will be trained: what they miss stays in the residual.
            residual[rows] = working[rows].double() - self.scale * (left[rows] @ right)
        return LinearStart(
            weight=residual,
            parts=parts,
            spectrum=svd.s,
            captured=svd.captured,
            shortfall=svd.shortfall,
            defect=svd.defect,
        )


@dataclass(frozen=True)
class Sorsa(_Split):
    """SORSA: U, S and V are trained apart."""

    name: ClassVar[str] = "sorsa"

    def parts(self, svd: TruncatedSVD) -> dict[str, Tensor]:
        """Return U ``(out, r)``, S ``(r,)`` and Vᵀ ``(r, in)``."""
        tensors = {"sorsa_u": svd.u, "sorsa_s": svd.s, "sorsa_vt": svd.vt}
        return {name: tensor.float().contiguous() for name, tensor in tensors.items()}

    def factors(self, parts: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return U·S and Vᵀ."""
        left = parts["sorsa_u"].double() * parts["sorsa_s"].double()
        return left, parts["sorsa_vt"].double()


@dataclass(frozen=True)
class Pissa(_Split):
    """PiSSA: ``A = √S Vᵀ`` and ``B = U √S`` are trained."""

    name: ClassVar[str] = "pissa"

    def parts(self, svd: TruncatedSVD) -> dict[str, Tensor]:
        """Return A ``(r, in)`` and B ``(out, r)``."""
        root = svd.s.sqrt()
        tensors = {"pissa_a": root[:, None] * svd.vt, "pissa_b": svd.u * root}
        return {name: tensor.float().contiguous() for name, tensor in tensors.items()}

    def factors(self, parts: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return B and A."""
        return parts["pissa_b"].double(), parts["pissa_a"].double()


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(begin, begin + ROWS) for begin in range(0, rows, ROWS))
