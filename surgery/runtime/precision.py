"""In which precision the small trainable parts compute, whatever the model around them does."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """Return float64 where any of the tensors is in it, else float32.

    bfloat16 has 8 bits: a reflection or a low-rank product computed in it would be off by up to
    2e-2, and an identity start would not be one.
    """
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which matrix products keep their operands' precision."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # meta, for one, has no autocast to switch off
