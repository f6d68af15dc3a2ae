"""How much a computation keeps for its gradient, and how large its largest tensor is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def saved_numbers(compute: Callable[[], object], dtype: torch.dtype | None = None) -> int:
    """Numbers that autograd keeps for the backward pass, those of shared storage counted once."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if dtype in (None, tensor.dtype):
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = compute()
    del result  # kept until here, so that no storage is counted under a used address
    return sum(saved.values())


class _Largest(TorchDispatchMode):
    numbers = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


def largest_tensor(compute: Callable[[], object]) -> int:
    """Numbers in the largest tensor that any step of a computation makes."""
    with _Largest() as mode:
        compute()
    return mode.numbers
