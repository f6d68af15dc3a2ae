"""A block-diagonal map on the outputs of a linear one: never a dense out×out matrix.

Notation: ``blocks`` are the sizes r_1, r_2, … of neighbouring pieces of the outputs, the first
beginning at ``offset``; outputs before and behind them pass as they are. A piece y_i becomes
``C_i y_i`` with a free C_i (:func:`mix_outputs`) or a diagonal one (:func:`scale_outputs`).

Source: CLOVER, arXiv 2411.17426: the part of a head that is tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .precision import no_autocast, project, scale, working_dtype


def mix_outputs(y: Tensor, flat: Tensor, blocks: Sequence[int], offset: int = 0) -> Tensor:
    """Multiply every piece of the outputs by its own square block.

    Computed in float32 (float64 where ``y`` or ``flat`` is), also under autocast, and rounded
    once. Costs O(Σ r²) a token; blocks of one size are one batched product.

    Args:
        y: Outputs ``(..., out)``, of any floating dtype.
        flat: The blocks one after the other, each row by row: ``(Σ r²,)``.
        blocks: Sizes r of the pieces.
        offset: Where the first piece begins.

    Returns:
        ``(..., out)`` in the dtype of ``y``.
    """
    dtype = working_dtype(y, flat)
    with no_autocast(y.device):
        return _within(y, sum(blocks), offset, lambda x: _mix(x, flat.to(dtype), blocks))


def scale_outputs(
    y: Tensor, values: Tensor, blocks: Sequence[int], offset: int = 0, shared: int = 1
) -> Tensor:
    """Multiply every piece of the outputs by a diagonal, entry by entry.

    Args:
        y: Outputs ``(..., out)``, of any floating dtype.
        values: The diagonals one after the other: ``(Σ r / shared,)``.
        blocks: Sizes r of the pieces.
        offset: Where the first piece begins.
        shared: How many outputs of a piece have one value: 2 for the two rows i and i + r/2 of
            a frequency pair under RoPE.

    Returns:
        ``(..., out)`` in the dtype of ``y``.
    """
    factors = spread(values.to(working_dtype(y, values)), blocks, shared)
    return _within(y, sum(blocks), offset, lambda x: scale(x, factors))


def mix_rows(weight: Tensor, flat: Tensor, blocks: Sequence[int], offset: int = 0) -> Tensor:
    """Return ``C weight``: what :func:`mix_outputs` makes of a map's weight, or of its bias.

    Args:
        weight: ``(out, n)``; computed in its dtype, which should be float32 or float64.
        flat: The blocks, as above.
        blocks: Their sizes.
        offset: Row at which the first begins.
    """
    return mix_outputs(weight.T, flat.to(weight.dtype), blocks, offset).T.contiguous()


def scale_rows(
    weight: Tensor, values: Tensor, blocks: Sequence[int], offset: int = 0, shared: int = 1
) -> Tensor:
    """Return ``C weight`` with a diagonal C: what :func:`scale_outputs` makes of a weight.

    Args:
        weight: ``(out, n)``; computed in its dtype, which should be float32 or float64.
        values: The diagonals, as above.
        blocks: Their sizes.
        offset: Row at which the first begins.
        shared: How many rows of a block have one value.
    """
    turned = scale_outputs(weight.T, values.to(weight.dtype), blocks, offset, shared)
    return turned.T.contiguous()


def spread(values: Tensor, blocks: Sequence[int], shared: int) -> Tensor:
    """Return one factor an output: each block's values, ``shared`` times over: ``(Σ r,)``."""
    if shared == 1:
        return values
    if len(set(blocks)) == 1:
        return values.view(len(blocks), -1).repeat(1, shared).flatten()
    pieces = torch.split(values, [size // shared for size in blocks])
    return torch.cat([piece.repeat(shared) for piece in pieces])


def _within(y: Tensor, size: int, offset: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change ``size`` outputs from ``offset`` on, as ``(tokens, size)``; keep the others."""
    tokens = y.reshape(-1, y.shape[-1])
    end = offset + size
    changed = change(tokens[:, offset:end]).to(y.dtype)
    if size < y.shape[-1]:
        changed = torch.cat([tokens[:, :offset], changed, tokens[:, end:]], dim=1)
    return changed.view(y.shape)


def _mix(x: Tensor, flat: Tensor, blocks: Sequence[int]) -> Tensor:
    """Return the mixed pieces of ``(tokens, Σ r)``, in the dtype of ``flat``."""
    if len(set(blocks)) == 1:
        number, size = len(blocks), blocks[0]
        pieces = torch.unflatten(x, 1, (number, size)).transpose(0, 1)
        return project(pieces, flat.view(number, size, size).mT).transpose(0, 1).flatten(1)
    squares = torch.split(flat, [size * size for size in blocks])
    mixed = [
        project(piece, square.view(size, size).T)
        for piece, square, size in zip(
            torch.split(x, list(blocks), dim=1), squares, blocks, strict=True
        )
    ]
    return torch.cat(mixed, dim=1)
