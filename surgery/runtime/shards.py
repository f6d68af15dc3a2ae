"""Parameters that several processes hold a part of each (FSDP2): the whole of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor gathered from all processes, any other as it is.

    Gradients go back to the shards. Every process must call it, in the same order.
    """
    sharded: Any = tensor
    gathered: Tensor = sharded.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered
