"""In which precision the small trainable parts compute, whatever the model around them does."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """Return float64 where any of the tensors is in it, else float32.

    bfloat16 has 8 bits: a reflection or a low-rank product computed in it would be off by up to
    2e-2, and an identity start would not be one.
    """
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which matrix products keep their operands' precision.

    TF32 stays as the user has set it: where it is allowed (off by default), float32 products on
    a GPU have 11 bits, and identity starts are exact to that only.
    """
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # meta, for one, has no autocast to switch off


def project(x: Tensor, columns: Tensor) -> Tensor:
    """Return ``x columns`` in the dtype of ``columns``, keeping ``x`` as it is for the gradient.

    Written as ``x.float() @ columns``, autograd would keep a float32 copy of 16-bit activations:
    twice the memory of everything else in the layer.

    Args:
        x: Activations ``(n, d)``, of any floating dtype.
        columns: ``(d, r)``, in the dtype to compute in. Both may be batched: ``(b, n, d)`` and
            ``(b, d, r)``.
    """
    if x.dtype == columns.dtype:
        return x @ columns
    product: Tensor = _Project.apply(x, columns)  # type: ignore[no-untyped-call]
    return product


def scale(x: Tensor, factors: Tensor) -> Tensor:
    """Return ``x · factors`` in the dtype of ``factors``, keeping ``x`` as it is, as above.

    Args:
        x: Activations ``(n, d)``, of any floating dtype.
        factors: ``(d,)``, in the dtype to compute in.
    """
    if x.dtype == factors.dtype:
        return x * factors
    product: Tensor = _Scale.apply(x, factors)  # type: ignore[no-untyped-call]
    return product


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(x, columns)
        return x.to(columns.dtype) @ columns

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, columns = ctx.saved_tensors
        to_x, to_columns = ctx.needs_input_grad
        with no_autocast(x.device):
            return (
                (gradient @ columns.mT).to(x.dtype) if to_x else None,
                x.to(columns.dtype).mT @ gradient if to_columns else None,
            )


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factors: Tensor) -> Tensor:
        ctx.save_for_backward(x, factors)
        return x.to(factors.dtype) * factors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, factors = ctx.saved_tensors
        to_x, to_factors = ctx.needs_input_grad
        return (
            (gradient * factors).to(x.dtype) if to_x else None,
            (x.to(factors.dtype) * gradient).sum(dim=0) if to_factors else None,
        )
