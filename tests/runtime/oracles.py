"""Dense matrices of what the small parts stand for, multiplied out factor by factor."""

from __future__ import annotations

import torch
from torch import Tensor


def reflections(u: Tensor) -> Tensor:
    """``H = Π (I − 2 û ûᵀ)`` in float64; a zero column is the identity."""
    u = u.detach().double()
    product = torch.eye(u.shape[0], dtype=torch.float64)
    for column in u.T:
        if column.any():
            unit = column / column.norm()
            product = product @ (torch.eye(len(unit), dtype=torch.float64) - 2 * unit.outer(unit))
    return product


def pairs(width: int) -> list[tuple[int, int]]:
    """The pairs of elements in block order, from the halving rule of GOFT's own code."""
    found = []
    count, stride = width, 1
    while count > 1:
        left = count % 2
        count //= 2
        found += [(2 * k * stride, (2 * k + 1) * stride) for k in range(count)]
        count += left
        stride *= 2
    return found


def tree(blocks: Tensor) -> Tensor:
    """``R = P_L … P_1`` in float64, one block at a time, later ones to the left."""
    blocks = blocks.detach().double()
    width = blocks.shape[0] + 1
    product = torch.eye(width, dtype=torch.float64)
    for block, pair in zip(blocks, pairs(width), strict=True):
        # The block embedded in an identity changes only these two rows of what is to its right.
        product[list(pair)] = block @ product[list(pair)]
    return product


def rotations(angles: Tensor) -> Tensor:
    """The tree whose blocks are ``[[c, −s], [s, c]]``."""
    angles = angles.detach().double()
    c, s = angles.cos(), angles.sin()
    return tree(torch.stack((c, -s, s, c), dim=-1).view(-1, 2, 2))
