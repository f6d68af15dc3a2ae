"""What tensors take with their numbers in eight bits, by what runtimes do to them."""

from __future__ import annotations

from collections.abc import Collection
from math import prod

from surgery.report.accounting import TensorInfo

BLOCK = 32
"""Numbers of a row that share a scale in llama.cpp's q8_0; rows that do not divide stay halves."""


def int8_bytes(tensors: Collection[TensorInfo]) -> int:
    """Return the bytes of int8 with a float32 scale a row; vectors stay as they are stored."""
    return sum(
        prod(shape) + 4 * shape[0] if len(shape) > 1 else prod(shape) * size
        for shape, size in tensors
    )


def q8_0_bytes(tensors: Collection[TensorInfo]) -> int:
    """Return the bytes of llama.cpp's q8_0; vectors are float32 there."""
    total = 0.0
    for shape, _ in tensors:
        whole = shape[-1:] and shape[-1] % BLOCK == 0
        width = 4.0 if len(shape) < 2 else (BLOCK + 2) / BLOCK if whole else 2.0
        total += prod(shape) * width
    return round(total)
