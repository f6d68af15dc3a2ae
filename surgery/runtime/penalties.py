"""What training adds to the loss to keep the small parts (nearly) orthogonal."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import no_autocast, working_dtype
from .shards import whole


def orthonormality_penalty(columns: Tensor, *, squared: bool) -> Tensor:
    """Return ``‖CᵀC − I‖_F``, or its square, of the columns as they are, not normalised first.

    Computed in float32 or better. The gradient is finite everywhere, zero at orthonormal columns.

    Args:
        columns: ``(n, r)``.
        squared: Whether to square. SORSA (arXiv 2409.00055) does not, HRA's paper
            (arXiv 2405.17484) does, HRA's published code does not.
    """
    columns = whole(columns)
    dtype = working_dtype(columns)
    with no_autocast(columns.device):
        columns = columns.to(dtype)
        identity = torch.eye(columns.shape[1], dtype=dtype, device=columns.device)
        defect = columns.T @ columns - identity
        # matrix_norm, not a square root by hand: that one's gradient at zero is NaN.
        return defect.square().sum() if squared else torch.linalg.matrix_norm(defect)


def block_orthogonality_penalty(blocks: Tensor) -> Tensor:
    """Return qGOFT's ``Σ ⟨α, β⟩²`` over the columns of every 2×2 block; column norms stay free.

    Computed in float32 or better (arXiv 2404.04316).

    Args:
        blocks: ``(n, 2, 2)``.
    """
    blocks = whole(blocks)
    blocks = blocks.to(working_dtype(blocks))
    return (blocks[:, :, 0] * blocks[:, :, 1]).sum(dim=1).square().sum()
