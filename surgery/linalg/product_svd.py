"""The SVD of a product of two thin factors, without ever forming the product.

For ``M = Lᵀ N`` with ``L: (d, m)`` and ``N: (d, n)``, d far below m and n, let R_L and R_N be
any d×d roots of the Gram matrices, ``R_Lᵀ R_L = L Lᵀ`` and ``R_Nᵀ R_N = N Nᵀ``. The singular
values of M are those of the d×d core ``R_L R_Nᵀ = U S Vᵀ``, and

    ``T_L = S^(-1/2) Vᵀ R_N``      ``T_N = S^(-1/2) Uᵀ R_L``

turn the factors into balanced, mutually orthogonal ones: ``(T_L L)ᵀ (T_N N) = M`` with
``(T_L L)(T_L L)ᵀ = (T_N N)(T_N N)ᵀ = S``. Only d×d matrices are decomposed.

Two roots are used. Cholesky of the Gram matrix is one matrix product and cheap, but squares the
factor's condition; thin QR does not, and takes any rank. Rows are scaled to unit norm before the
Gram matrix, so that vectors which merely fade cost nothing. Rounding perturbs the scaled Gram
matrix Ĝ by about ``d·eps`` an entry, and a new vector of norm sqrt(s_i) combines scaled rows with
coefficients of norm at most ``sqrt(s_i / σ_min(Ĝ))``. Hence the cosine between two new vectors is
off by at most ``d·eps / σ_min(Ĝ)``: where that bound is small the first root is kept, elsewhere
the second is taken.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

ORTHOGONALITY_DEFECT = 1e-8
"""Largest cosine between new vectors that the Cholesky root may cost; else thin QR is used."""


class ProductSVD(NamedTuple):
    """Singular values of ``Lᵀ N`` and the transforms that balance its factors.

    ``values`` are descending and non-negative; values below the rounding noise of the
    product are exactly zero, and so are their rows of both transforms.
    """

    values: Float[Tensor, "batch d"]
    left: Float[Tensor, "batch d d"]
    right: Float[Tensor, "batch d d"]


def product_svd(left: Float[Tensor, "batch d m"], right: Float[Tensor, "batch d n"]) -> ProductSVD:
    """Decompose ``leftᵀ right`` for a batch of heads.

    Args:
        left: L, float64 (float32 works, with float32's accuracy).
        right: N, of the same batch, d and dtype.

    Returns:
        Values and transforms in the factors' dtype.

    Source: theory of CLOVER (arXiv 2411.17426); the transforms are derived above.
    """
    root_left, bound_left = _cholesky_root(left)
    root_right, bound_right = _cholesky_root(right)
    doubtful = torch.maximum(bound_left, bound_right) > ORTHOGONALITY_DEFECT
    result = core_svd(root_left, root_right)
    if not bool(doubtful.any()):
        return result
    chosen = doubtful.nonzero().squeeze(1)
    careful = core_svd(qr_root(left[chosen]), qr_root(right[chosen]))
    for fast, slow in zip(result, careful, strict=True):
        fast[chosen] = slow
    return result


def qr_root(factor: Float[Tensor, "batch d m"]) -> Float[Tensor, "batch k d"]:
    """Return R of the thin QR of ``factorᵀ``: ``RᵀR = factor factorᵀ``, k = min(d, m)."""
    root: Tensor = torch.linalg.qr(factor.mT, mode="r").R
    return root


def _cholesky_root(factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Cholesky root, and a bound on the cosines it costs (infinite: no root)."""
    gram = factor @ factor.mT
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    safe = torch.where(norms > 0, norms, torch.ones_like(norms))
    root, info = torch.linalg.cholesky_ex(
        gram / safe[..., :, None] / safe[..., None, :], upper=True
    )
    d = root.shape[-1]
    identity = torch.eye(d, dtype=root.dtype, device=root.device)
    failed = (info != 0) | (norms == 0).any(dim=-1) | ~torch.isfinite(root).all(dim=(-2, -1))
    root = torch.where(failed[:, None, None], identity, root)
    # The trace of the inverse is at least 1/σ_min(Ĝ), and cheaper.
    inverse = torch.cholesky_inverse(root, upper=True)
    bound = d * torch.finfo(root.dtype).eps * inverse.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    infinite = torch.full_like(bound, torch.inf)
    return root * safe[..., None, :], torch.where(failed, infinite, bound)


def core_svd(
    root_left: Float[Tensor, "batch k d"], root_right: Float[Tensor, "batch l d"]
) -> ProductSVD:
    """Decompose ``R_L R_Nᵀ`` and return the transforms that roots R_L, R_N give (see above).

    The roots, of at most d rows, need not be those of the factors' own Gram matrices: with roots of
    their second moments under some input, the product is decomposed as that input sees it.
    """
    d = root_left.shape[-1]
    u, s, vh = torch.linalg.svd(root_left @ root_right.mT, full_matrices=False)
    # What rounding alone puts into the core bounds what a singular value can mean.
    scale = torch.linalg.matrix_norm(root_left) * torch.linalg.matrix_norm(root_right)
    floor = d * torch.finfo(s.dtype).eps * scale[:, None]
    s = torch.where(s > floor, s, torch.zeros_like(s))
    inverse_sqrt = torch.where(s > 0, s, torch.ones_like(s)).rsqrt() * (s > 0)
    left = inverse_sqrt[..., None] * (vh @ root_right)
    right = inverse_sqrt[..., None] * (u.mT @ root_left)
    if s.shape[-1] < d:  # factors thinner than d leave the last components empty
        pad = d - s.shape[-1]
        s = torch.nn.functional.pad(s, (0, pad))
        left = torch.nn.functional.pad(left, (0, 0, 0, pad))
        right = torch.nn.functional.pad(right, (0, 0, 0, pad))
    return ProductSVD(s, left, right)
