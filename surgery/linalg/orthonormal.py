"""Orthonormal vectors on the outside, everything else in one small matrix between them.

What Absorb-Decompose trains is the small matrix. So, unlike in :mod:`.product_svd`, no root of S
may be in the factors: they are found by thin QR, which keeps them orthonormal to rounding whatever
S holds, exact zeros too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class OrthonormalProduct(NamedTuple):
    """``Lᵀ N = leftᵀ diag(values) right``.

    ``values`` are descending and non-negative. The first min(d, m, n) rows of ``left`` and of
    ``right`` are orthonormal; rows beyond them, and their values, are zero.
    """

    values: Float[Tensor, "batch d"]
    left: Float[Tensor, "batch d m"]
    right: Float[Tensor, "batch d n"]


def orthonormal_product(
    left: Float[Tensor, "batch d m"], right: Float[Tensor, "batch d n"]
) -> OrthonormalProduct:
    """Decompose ``leftᵀ right`` for a batch of heads, d far below m and n.

    With thin QR ``Lᵀ = Q_L R_L`` and ``Nᵀ = Q_N R_N``, and the SVD of the d×d core
    ``R_L R_Nᵀ = U S Vᵀ``: ``Lᵀ N = (Q_L U) S (Q_N V)ᵀ``. The m×n product is never formed.

    Args:
        left: L, float64 (float32 works, with float32's accuracy).
        right: N, of the same batch, d and dtype.

    Source: CLOVER, arXiv 2411.17426.
    """
    q_left, root_left = torch.linalg.qr(left.mT)
    q_right, root_right = torch.linalg.qr(right.mT)
    u, values, vh = torch.linalg.svd(root_left @ root_right.mT, full_matrices=False)
    d = left.shape[-2]
    return OrthonormalProduct(
        torch.nn.functional.pad(values, (0, d - values.shape[-1])),
        _padded(u.mT @ q_left.mT, d),
        _padded(vh @ q_right.mT, d),
    )


def orthonormal_rows(
    rows: Float[Tensor, "batch d n"],
) -> tuple[Float[Tensor, "batch d d"], Float[Tensor, "batch d n"]]:
    """Return R and Q with ``rows = R Q``, by thin QR of ``rowsᵀ``; R is lower triangular.

    The first min(d, n) rows of Q are orthonormal; rows beyond them, and their columns of R, are
    zero.
    """
    q, r = torch.linalg.qr(rows.mT)
    d = rows.shape[-2]
    return torch.nn.functional.pad(r.mT, (0, d - r.shape[-2])), _padded(q.mT, d)


def orthonormality_defect(rows: Float[Tensor, "batch d n"]) -> float:
    """Return the largest entry of ``|rows rowsᵀ − I|``, rows that are zero left out."""
    kept = (rows != 0).any(dim=-1).to(rows.dtype)
    defect = rows @ rows.mT - torch.diag_embed(kept)
    return float(defect.abs().max()) if defect.numel() else 0.0


def _padded(rows: Tensor, d: int) -> Tensor:
    return torch.nn.functional.pad(rows, (0, 0, 0, d - rows.shape[-2]))
