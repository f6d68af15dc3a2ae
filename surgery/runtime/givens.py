"""Trees of Givens rotations, and of free 2×2 blocks in their place.

Notation: d = width (any number, odd too), ``R = P_L … P_1``. Stage s pairs the elements still
active, ``0, stride, 2·stride, …`` with stride 2^(s−1): the first of each pair stays active. Each
stage is one product of disjoint 2×2 blocks, and there are d − 1 blocks in all, stored in stage
order and by rising index within a stage. A rotation's block is ``[[c, −s], [s, c]]``.

How it runs: see :mod:`.subtrees` and :mod:`.tiers`. Gradients of :func:`rotate` and :func:`mix`
are exact, but not differentiable once more.

Source: GOFT and qGOFT, arXiv 2404.04316; for general d, its code's first version.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .precision import no_autocast, working_dtype
from .subtrees import subtree_gradient, subtree_matrices, tiers
from .tiers import Matrices, towards_leaves, towards_root


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Apply the rotations to activations: ``x R``; the identity at zero angles, exactly.

    Args:
        x: Activations ``(..., d)``, of any floating dtype and layout.
        angles: ``(d − 1,)``, radians.

    Returns:
        ``(..., d)`` in the dtype of ``x``. Computed in float32, or float64 where ``x`` or
        ``angles`` is, also under autocast.
    """
    return mix(x, rotation_blocks(angles.to(working_dtype(x, angles))))


def rotate_weight(weight: Tensor, angles: Tensor) -> Tensor:
    """Return ``W Rᵀ``, with which ``x (W Rᵀ)ᵀ = rotate(x, angles) Wᵀ``.

    Args:
        weight: ``(out, d)``; computed in its dtype, which should be float32 or float64.
        angles: ``(d − 1,)``, radians.
    """
    return mix_weight(weight, rotation_blocks(angles.to(weight.dtype)))


def rotation_blocks(angles: Tensor) -> Tensor:
    """Return the blocks ``(d − 1, 2, 2)`` of the rotations by ``angles (d − 1,)``."""
    cosine, sine = angles.cos(), angles.sin()
    return torch.stack((cosine, -sine, sine, cosine), dim=-1).view(-1, 2, 2)


def mix(x: Tensor, blocks: Tensor) -> Tensor:
    """Apply free blocks to activations: ``x R``; the identity at identity blocks, exactly.

    With the columns α, β of its block, a pair becomes ``⟨(x_i, x_j), α⟩, ⟨(x_i, x_j), β⟩``.

    Args:
        x: Activations ``(..., d)``, of any floating dtype and layout.
        blocks: ``(d − 1, 2, 2)``.

    Returns:
        ``(..., d)`` in the dtype of ``x``. Computed as :func:`rotate` does.
    """
    tokens = x.reshape(-1, x.shape[-1])
    blocks = blocks.to(working_dtype(x, blocks))
    mixed: Tensor = _Mix.apply(tokens, blocks)  # type: ignore[no-untyped-call]
    return mixed.view(x.shape)


def mix_weight(weight: Tensor, blocks: Tensor) -> Tensor:
    """Return ``W Rᵀ``, with which ``x (W Rᵀ)ᵀ = mix(x, blocks) Wᵀ``.

    Args:
        weight: ``(out, d)``; computed in its dtype, which should be float32 or float64.
        blocks: ``(d − 1, 2, 2)``.
    """
    with no_autocast(weight.device):
        return towards_root(weight, _all_matrices(weight.shape[1], blocks.to(weight.dtype)))[0]


def _all_matrices(width: int, blocks: Tensor) -> Matrices:
    return [(tier, subtree_matrices(tier, blocks)) for tier in tiers(width)]


class _Mix(torch.autograd.Function):
    """``x R`` for x ``(tokens, d)`` and blocks in the working dtype.

    Written out because autograd would keep, and fill anew, several tensors of the size of x a
    tier. This keeps x itself and about ``tokens·d / B + B·d`` numbers more.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, blocks: Tensor) -> Tensor:
        with no_autocast(x.device):
            matrices = _all_matrices(x.shape[1], blocks)
            mixed, roots = towards_leaves(x, matrices)
        ctx.save_for_backward(x, blocks, *(matrix for _, matrix in matrices), *roots)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        x, blocks, *kept = ctx.saved_tensors
        order = tiers(x.shape[1])
        matrices = list(zip(order, kept[: len(order)], strict=True))
        entered = (x, kept[len(order) :]) if ctx.needs_input_grad[1] else None
        with no_autocast(x.device):
            to_x, to_matrices = towards_root(gradient, matrices, entered)
            if entered is None:
                return to_x, None
            to_blocks = torch.empty_like(blocks)
            for tier, to_matrix in zip(order, to_matrices, strict=True):
                subtree_gradient(tier, blocks, to_matrix, to_blocks)
        return to_x, to_blocks
