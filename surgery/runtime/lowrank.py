"""Adding a low-rank map to a linear one's result, without ever forming the product."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import no_autocast, project, working_dtype


def add_lowrank(
    base: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float, middle: Tensor | None = None
) -> Tensor:
    """Return ``base + scale·((x downᵀ)·middle) upᵀ``.

    Computed in float32 (float64 where a tensor is), also under autocast, and rounded once.

    Args:
        base: Result of the frozen map ``(..., out)``.
        x: Activations ``(..., in)``.
        down: ``(r, in)``.
        up: ``(out, r)``.
        scale: Factor of the low-rank map.
        middle: ``(r,)``; ones where left out.

    Returns:
        ``(..., out)`` in the dtype of ``base``.
    """
    dtype = working_dtype(base, x, down, up)
    with no_autocast(x.device):
        inner = project(x.reshape(-1, x.shape[-1]), down.to(dtype).T)
        if middle is not None:
            inner = inner * middle.to(dtype)
        tokens = base.reshape(-1, base.shape[-1]).to(dtype)
        added = torch.addmm(tokens, inner, up.to(dtype).T, alpha=scale)
    return added.to(base.dtype).view(base.shape)
