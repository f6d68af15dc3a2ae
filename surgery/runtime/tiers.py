"""Activations on their way through the tiers of a tree, from the root or from the leaves.

Notation: n tokens, d = width of the tree, B leaves and one B×B matrix a subtree, c subtrees in a
tier. Activations enter the batched product as ``(c, n, B)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .subtrees import Tier

CHUNK = 2**19
"""Numbers that go through a tier at a time on a CPU (2 MiB of float32).

Few enough to stay in caches between the steps, and in memory that the allocator has touched
before: fresh pages cost more than the arithmetic. Measured flat from 2^18 to 2^20.
"""

Matrices = Sequence[tuple[Tier, Tensor]]
"""The tiers of a tree from the leaves to the root, each with its matrices ``(c, B, B)``."""


def towards_leaves(x: Tensor, matrices: Matrices) -> tuple[Tensor, list[Tensor]]:
    """Return ``x R``, and each tier's roots as they come from the tier above.

    Args:
        x: ``(n, d)``, of any floating dtype and strides.
        matrices: In the dtype to compute in.

    Returns:
        ``(n, d)`` in the dtype of ``x``, and for each tier ``(n, c)`` in that of the matrices.
    """
    if not matrices:
        return x.clone(), []
    (tier, matrix), *above = matrices
    roots, further = towards_leaves(x[:, :: tier.size].to(matrix.dtype), above)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    for rows in _chunks(x):
        entered = _spread(tier, x[rows], roots[rows], matrix.dtype)
        _gather(tier, torch.bmm(entered, matrix), out[rows])
    return out, [roots, *further]


def towards_root(
    x: Tensor, matrices: Matrices, entered: tuple[Tensor, Sequence[Tensor]] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Return ``x Rᵀ``: a weight on its way to be merged, or a gradient on its way back.

    Args:
        x: ``(n, d)``, of any floating dtype and strides.
        matrices: In the dtype to compute in.
        entered: For gradients, what :func:`towards_leaves` was given and the roots it returned.

    Returns:
        ``(n, d)`` in the dtype of ``x``, and the gradients of the matrices where ``entered``.
    """
    if not matrices:
        return x.clone(), []
    (tier, matrix), *above = matrices
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    roots = matrix.new_empty(x.shape[0], tier.count)  # in full precision to the next tier
    gradients = []
    if entered is not None:
        gradients.append(torch.zeros_like(matrix))
    for rows in _chunks(x):
        arrived = _spread(tier, x[rows], None, matrix.dtype)
        if entered is not None:
            inward = _spread(tier, entered[0][rows], entered[1][0][rows], matrix.dtype)
            gradients[0].baddbmm_(inward.mT, arrived)
        turned = torch.bmm(arrived, matrix.mT)
        _gather(tier, turned, out[rows])
        roots[rows] = turned[:, :, 0].T
    if entered is not None:
        entered = (entered[0][:, :: tier.size].to(matrix.dtype), entered[1][1:])
    out[:, :: tier.size], further = towards_root(roots, above, entered)
    return out, gradients + further


def _chunks(x: Tensor) -> Iterator[slice]:
    tokens, width = x.shape
    step = max(1, CHUNK // width) if x.device.type == "cpu" else max(1, tokens)
    for start in range(0, tokens, step):
        yield slice(start, start + step)


def _spread(tier: Tier, x: Tensor, roots: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Copy ``x (n, width)`` to ``(c, n, B)``, the first of each subtree replaced by ``roots``.

    Where the width is no multiple of B, zeros complete the last subtree: its matrix leaves them
    to themselves.
    """
    whole, rest = divmod(tier.width, tier.size)
    out = x.new_empty(tier.count, x.shape[0], tier.size, dtype=dtype)
    out[:whole] = _runs(x, whole, tier.size).transpose(0, 1)
    if rest:
        out[whole, :, :rest] = x[:, -rest:]
        out[whole, :, rest:] = 0
    if roots is not None:
        out[:, :, 0] = roots.T
    return out


def _gather(tier: Tier, x: Tensor, out: Tensor) -> None:
    """Copy ``x (c, n, B)`` back to ``out (n, width)``."""
    whole, rest = divmod(tier.width, tier.size)
    _runs(out, whole, tier.size).copy_(x[:whole].transpose(0, 1))
    if rest:
        out[:, -rest:] = x[whole, :, :rest]


def _runs(x: Tensor, count: int, size: int) -> Tensor:
    """View the first ``count`` runs of ``size`` neighbours in each row: ``(n, count, size)``."""
    return x[:, : count * size].view(x.shape[0], count, size)
