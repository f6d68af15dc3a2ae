"""Trees of Givens rotations, and of free 2×2 blocks in their place.

Notation: d = width (any number, odd too), ``R = P_L … P_1``. Stage s pairs the elements still
active, ``0, stride, 2·stride, …`` with stride 2^(s−1): the first of each pair stays active. Each
stage is one product of disjoint 2×2 blocks, and there are d − 1 blocks in all, stored in stage
order and by rising index within a stage. A rotation's block is ``[[c, −s], [s, c]]``.

Source: GOFT and qGOFT, arXiv 2404.04316; for general d, its code's first version.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import no_autocast, working_dtype


def stages(width: int) -> list[tuple[int, int]]:
    """Return stride and number of pairs of every stage; the pairs add up to ``width − 1``.

    Pair k of a stage is ``(2k·stride, (2k + 1)·stride)``.
    """
    found = []
    active, stride = width, 1
    while active > 1:
        found.append((stride, active // 2))
        active -= active // 2
        stride *= 2
    return found


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Apply the rotations to activations: ``x R``; the identity at zero angles, exactly.

    Args:
        x: Activations ``(..., d)``, of any floating dtype and layout.
        angles: ``(d − 1,)``, radians.

    Returns:
        ``(..., d)`` in the dtype of ``x``. Computed in float32, or float64 where ``x`` or
        ``angles`` is, also under autocast.
    """
    return mix(x, rotation_blocks(angles))


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
    dtype = working_dtype(x, blocks)
    with no_autocast(x.device):
        tokens = x.reshape(-1, x.shape[-1]).to(dtype)
        return _towards_leaves(tokens, blocks.to(dtype)).to(x.dtype).view(x.shape)


def mix_weight(weight: Tensor, blocks: Tensor) -> Tensor:
    """Return ``W Rᵀ``, with which ``x (W Rᵀ)ᵀ = mix(x, blocks) Wᵀ``.

    Args:
        weight: ``(out, d)``; computed in its dtype, which should be float32 or float64.
        blocks: ``(d − 1, 2, 2)``.
    """
    with no_autocast(weight.device):
        mixed = weight.clone()
        blocks = blocks.to(weight.dtype).mT
        start = 0
        for stride, pairs in stages(weight.shape[-1]):
            first, second = mixed[:, :: 2 * stride][:, :pairs], mixed[:, stride :: 2 * stride]
            block = blocks[start : start + pairs]
            start += pairs
            new_first, new_second = _mixed(first, second, block)
            mixed[:, : 2 * stride * pairs : 2 * stride] = new_first
            mixed[:, stride :: 2 * stride] = new_second
        return mixed


def _towards_leaves(x: Tensor, blocks: Tensor) -> Tensor:
    """Return ``x R``, x ``(tokens, d)``: the root's stage first, each level built from the last."""
    order = stages(x.shape[1])
    start = blocks.shape[0]
    active = x[:, :1]
    for stride, pairs in reversed(order):
        start -= pairs
        first, rest = active[:, :pairs], active[:, pairs:]
        second = x[:, stride :: 2 * stride]
        both = torch.stack(_mixed(first, second, blocks[start : start + pairs]), dim=-1)
        active = torch.cat((both.flatten(1), rest), dim=1)
    return active


def _mixed(first: Tensor, second: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
    return (
        first * block[:, 0, 0] + second * block[:, 1, 0],
        first * block[:, 0, 1] + second * block[:, 1, 1],
    )
