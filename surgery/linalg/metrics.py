"""How far one product of thin factors is from another, without forming either."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def product_norm(
    left: Float[Tensor, "batch d m"], right: Float[Tensor, "batch d n"]
) -> Float[Tensor, " batch"]:
    """Return ``‖leftᵀ right‖_F`` by thin QR of both factors."""
    core = torch.linalg.qr(left.mT, mode="r").R @ torch.linalg.qr(right.mT, mode="r").R.mT
    norm: Tensor = torch.linalg.matrix_norm(core)
    return norm


def product_error(
    left: Float[Tensor, "batch d m"],
    right: Float[Tensor, "batch d n"],
    new_left: Float[Tensor, "batch e m"],
    new_right: Float[Tensor, "batch e n"],
) -> Float[Tensor, " batch"]:
    """Return ``‖new_leftᵀ new_right - leftᵀ right‖_F / ‖leftᵀ right‖_F``, exact to rounding.

    The difference is itself a product, ``[left; new_left]ᵀ [-right; new_right]``, so thin
    QR of the stacked factors reduces it to a (d+e)×(d+e) core whose entries cancel at the
    level of rounding, not of its square root as Gram matrices would. A zero product gives
    the absolute error.
    """
    difference = product_norm(
        torch.cat([left, new_left], dim=-2), torch.cat([-right, new_right], dim=-2)
    )
    reference = product_norm(left, right)
    return difference / torch.where(reference > 0, reference, torch.ones_like(reference))


def probed_product_errors(
    left: Float[Tensor, "batch d m"],
    right: Float[Tensor, "batch d n"],
    candidates: Sequence[tuple[Tensor, Tensor]],
    norm: Float[Tensor, " batch"],
    *,
    probes: int = 16,
) -> list[Float[Tensor, " batch"]]:
    """Estimate :func:`product_error` of several candidates at a fraction of its cost.

    ``E‖D x‖² = ‖D‖_F²`` for standard normal x, so k probes estimate the norm with a relative
    spread of at most ``1/sqrt(2k)``, less for differences of higher rank. Probes come from a
    fixed seed: the same factors give the same figure.

    Args:
        left: L of the original product ``Lᵀ N``.
        right: N of it.
        candidates: Factors (e, m) and (e, n) of products to compare with it.
        norm: ``‖Lᵀ N‖_F``, where it is known already: the norm of the singular values.
        probes: k.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(right.shape[-1], probes, generator=generator, dtype=torch.float64)
    x = x.to(device=right.device, dtype=right.dtype)
    reference = left.mT @ (right @ x)
    scale = torch.where(norm > 0, norm, torch.ones_like(norm)) * probes**0.5
    return [
        torch.linalg.matrix_norm(new_left.mT @ (new_right @ x) - reference) / scale
        for new_left, new_right in candidates
    ]


def symmetric_root(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Return the symmetric R with ``R R = matrix``, which is symmetric and at least 0."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    return root
