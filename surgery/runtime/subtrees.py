"""The tree of 2×2 blocks, cut into subtrees of at most 32 leaves that run as small products.

A stage of the tree alone does little work for much memory traffic. So :data:`DEPTH` stages at a
time are multiplied into matrices of B×B (B = 32), one for each run of B neighbours, and applied
by one batched product: a *tier*. The roots of its subtrees are the leaves of the next tier,
which is B times narrower. With n tokens the whole tree takes about one product of 2·n·d·B
operations, and reads and writes activations once, not log2 d times.

Where d is no multiple of B, the last subtree is completed by identities.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

DEPTH = 5
"""Stages that one product takes together. 4 to 6 are as fast; 3 and 7 are slower (CPU)."""


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


@dataclass(frozen=True)
class Tier:
    """Stages that run together.

    Attributes:
        width: Elements that are active before its first stage.
        start: Index of its first block among all blocks.
        pairs: Blocks of each of its stages.
    """

    width: int
    start: int
    pairs: tuple[int, ...]

    @property
    def size(self) -> int:
        """Leaves of one subtree, B."""
        return 1 << len(self.pairs)

    @property
    def count(self) -> int:
        """Number of subtrees, the padded one included."""
        return -(-self.width // self.size)


@lru_cache(maxsize=64)
def tiers(width: int) -> tuple[Tier, ...]:
    """Cut the tree over ``width`` leaves into tiers, from the leaves to the root."""
    found: list[Tier] = []
    pairs = [count for _, count in stages(width)]
    start = 0
    while pairs:
        tier = Tier(width, start, tuple(pairs[:DEPTH]))
        found.append(tier)
        pairs, start, width = pairs[DEPTH:], start + sum(tier.pairs), tier.count
    return tuple(found)


def subtree_matrices(tier: Tier, blocks: Tensor) -> Tensor:
    """Multiply out the stages of every subtree: ``P_k … P_1``, restricted to its leaves.

    Args:
        tier: The tier.
        blocks: All blocks of the tree ``(d − 1, 2, 2)``.

    Returns:
        ``(count, B, B)`` in the dtype of ``blocks``.
    """
    matrices = blocks.new_zeros(tier.count, tier.size, tier.size)
    rows, firsts = _rows(tier, blocks)
    for level, row in enumerate(rows):
        _second_rows(matrices, level).copy_(row[:, 1].reshape(tier.count, -1, 2 << level))
    matrices[:, 0] = rows[-1][:, 0].flatten(1) if rows else firsts[-1]
    return matrices


def subtree_gradient(tier: Tier, blocks: Tensor, gradient: Tensor, out: Tensor) -> None:
    """Write to ``out (d − 1, 2, 2)`` the gradient of a tier's blocks.

    Args:
        tier: The tier.
        blocks: All blocks of the tree ``(d − 1, 2, 2)``.
        gradient: Gradient ``(count, B, B)`` of :func:`subtree_matrices`.
        out: Where to write; other tiers' blocks are left alone.
    """
    _, firsts = _rows(tier, blocks)
    to_first = gradient[:, 0]
    stop = tier.start + sum(tier.pairs)
    for level in reversed(range(len(tier.pairs))):
        half = 1 << level
        to_second = _second_rows(gradient, level)
        to_rows = torch.stack((to_first.reshape(-1, 2, half), to_second.reshape(-1, 2, half)), 1)
        pairs = tier.pairs[level]
        start = stop - pairs
        out[start:stop] = (to_rows * firsts[level].view(-1, 1, 2, half)).sum(-1)[:pairs]
        to_first = (to_rows * _padded(tier, level, blocks[start:stop]).unsqueeze(-1)).sum(1)
        stop = start


def _rows(tier: Tier, blocks: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the two rows that each block makes, and the first rows they are made of.

    A block joins two neighbouring subtrees of h leaves. Only their first rows f, g change: into
    ``[b00·f, b01·g]``, the first row of the joint matrix, and ``[b10·f, b11·g]``, its row h.

    Returns:
        For each stage ``(blocks, 2 rows, 2 halves, h)``, and ``(2·blocks, h)``.
    """
    first = blocks.new_ones(tier.count * tier.size, 1)
    rows: list[Tensor] = []
    firsts: list[Tensor] = []
    start = tier.start
    for level, pairs in enumerate(tier.pairs):
        block = _padded(tier, level, blocks[start : start + pairs])
        firsts.append(first)
        rows.append(block.unsqueeze(-1) * first.view(-1, 1, 2, 1 << level))
        first = rows[-1][:, 0].flatten(1)
        start += pairs
    return rows, firsts


def _padded(tier: Tier, level: int, blocks: Tensor) -> Tensor:
    """Complete a stage's blocks by identities, for pairs whose second element does not exist."""
    missing = (tier.count * tier.size >> (level + 1)) - blocks.shape[0]
    if not missing:
        return blocks
    identity = torch.eye(2, dtype=blocks.dtype, device=blocks.device)
    return torch.cat((blocks, identity.expand(missing, 2, 2)))


def _second_rows(matrices: Tensor, level: int) -> Tensor:
    """View the rows h, 3h, 5h, … where a stage of h = 2^level wrote: ``(count, blocks, 2h)``."""
    count, size, _ = matrices.shape
    half = 1 << level
    split = matrices.view(count, size // (2 * half), 2 * half, size // (2 * half), 2 * half)
    return split[:, :, half].diagonal(dim1=1, dim2=2).mT
