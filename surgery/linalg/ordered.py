"""What it costs to leave out columns of D one after the other in a given order, for every width.

One factorisation prices a whole order, in float64, whatever found the order.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

AT_ONCE = 1024
"""Columns treated at once, so that the half that is zero, or known, is mostly left out."""


def refitted_prices(
    A: Float64[Tensor, "n n"], D: Float64[Tensor, "d n"], order: Int64[Tensor, " n"]
) -> Float64[Tensor, " n"]:
    """Return what each column adds to ``min tr(X A Xᵀ)`` when it goes, the rest being refitted.

    X is what D changes by, the columns that are gone being zero. Let P reverse the order and
    ``P A Pᵀ = L Lᵀ``. Then ``A⁻¹``, in order, is ``K Kᵀ`` with K lower triangular, and eliminating
    column after column leaves ``D K⁻ᵀ``, which is ``D Pᵀ L`` back to front. So one Cholesky and one
    product give all prices::

        e = ‖(D Pᵀ L)_:i‖², last to first

    They sum to ``tr(D A Dᵀ)``, are at least 0, and need not rise. ``n³/3 + d n²`` operations.

    Args:
        A: Symmetric, positive definite.
        D: The columns.
        order: First to go first.

    Raises:
        torch.linalg.LinAlgError: A is not positive definite.
    """
    back = order.flip(0)
    root = torch.linalg.cholesky(A[back[:, None], back])
    columns = D[:, back]
    prices = torch.empty_like(columns[0])
    for start in range(0, len(prices), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        prices[part] = (columns[:, start:] @ root[start:, part]).square().sum(dim=0)
    return prices.flip(0)


def deleted_prices(
    C: Float64[Tensor, "n n"], D: Float64[Tensor, "d n"], order: Int64[Tensor, " n"]
) -> Float64[Tensor, " n"]:
    """Return what each column adds to ``tr(X C Xᵀ)`` when it goes and all others stay as they are.

    X holds the columns that are gone, so with ``T = (DᵀD) ∘ C`` in order, column i adds
    ``T_ii + 2 Σ_{j<i} T_ij``, which may be negative. ``d n²`` operations.

    Args:
        C: Symmetric.
        D: The columns.
        order: First to go first.
    """
    columns = D[:, order]
    prices = torch.empty_like(columns[0])
    for start in range(0, len(prices), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        rows = order[part]
        end = start + len(rows)
        both = (columns[:, part].mT @ columns[:, :end]) * C[rows[:, None], order[:end]]
        prices[part] = 2 * both.tril(start).sum(dim=1) - both.diagonal(start)
    return prices
