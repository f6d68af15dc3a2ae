"""CTranslate2's types of weights: the same integers as its own converters compute.

int8: every row of a weight (every output channel of a convolution) is scaled so that its largest
magnitude is 127, and rounded to the nearest integer, ties to even. int16: the whole weight is
scaled so that its largest magnitude is 1024. Norms, biases and positions stay floating-point.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surgery.errors import CheckpointError
from surgery.stored.stream import cast

INT8 = ("int8", "int8_float32", "int8_float16", "int8_bfloat16")
INTEGERS = (*INT8, "int16")
QUANTIZATIONS = ("float32", "float16", "bfloat16", *INTEGERS)
LARGEST_INT8 = 127.0
LARGEST_INT16 = 1024.0
ROWS = 8192  # of a large embedding that are held in float32 at once

FLOATS = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8_float32": torch.float32,
    "int8_float16": torch.float16,
    "int8_bfloat16": torch.bfloat16,
    "int16": torch.float32,
}
"""Type of what stays floating-point; plain int8 keeps the stored one."""


def quantised(
    name: str, value: Tensor, quantization: str | None, *, weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Return an array as it is stored, and the factor its integers were scaled by.

    Args:
        name: For messages.
        value: Floating-point array.
        quantization: One of :data:`QUANTIZATIONS`; ``None`` keeps the dtype.
        weight: Whether a quantization makes integers of it.

    Returns:
        The array, and for integers the factor: float32, ``(rows,)`` for int8, ``()`` for int16.

    Raises:
        CheckpointError: A value does not fit float16.
    """
    if weight and quantization in INT8:
        pieces = [_rows(piece) for piece in torch.split(value, ROWS)]
        integers, scales = zip(*pieces, strict=True)
        return torch.cat(integers), torch.cat(scales)
    if weight and quantization == "int16":
        return _whole(value.float())
    # There is no float64 in the format.
    kept = torch.float32 if value.dtype == torch.float64 else value.dtype
    wanted = FLOATS.get(quantization, kept) if quantization is not None else kept
    try:
        return cast(name, value, wanted), None
    except CheckpointError as error:
        raise CheckpointError(
            error.message,
            found=error.found,
            expected=error.expected,
            hint="write with --quantization bfloat16 or float32",
        ) from error


def _rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    rows = weight.float().flatten(1)
    largest = rows.abs().amax(1)
    # A row of zeros has any factor; one of denormals a factor that float32 can still hold.
    largest[largest == 0] = LARGEST_INT8
    largest.clamp_(min=LARGEST_INT8 / torch.finfo(torch.float32).max)
    # Divided, not multiplied by a reciprocal, which torch makes of `number / tensor`.
    scale = torch.full_like(largest, LARGEST_INT8) / largest
    integers = (rows * scale[:, None]).round_().to(torch.int8)
    return integers.reshape(weight.shape), scale


def _whole(weight: Tensor) -> tuple[Tensor, Tensor]:
    largest = weight.abs().amax()
    scale = torch.full_like(largest, LARGEST_INT16) / (largest or LARGEST_INT16)
    return (weight * scale).round_().to(torch.int16), scale
