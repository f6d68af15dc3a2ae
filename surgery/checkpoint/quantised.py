"""Quantised checkpoints: their numbers are codes, and linear algebra on codes is nonsense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from surgery.checkpoint.header import DTYPE_NAMES, TensorInfo
from surgery.errors import UnsupportedModelError

WEIGHT_DTYPES = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
_HINT = "start from the checkpoint that was quantised, in float32, float16 or bfloat16"


def refuse_quantised(config: Mapping[str, Any], infos: Mapping[str, TensorInfo]) -> None:
    """Refuse a checkpoint whose weights are codes instead of numbers.

    Integer buffers that are no weights (position ids, masks) pass.

    Args:
        config: ``config.json``.
        infos: Every tensor.

    Raises:
        UnsupportedModelError: The config has a ``quantization_config``, or a weight is
            stored in 8 bits or as integers; names it.
    """
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
        raise UnsupportedModelError(
            "The checkpoint is quantised.",
            where="config.json: quantization_config",
            found=method or quantization,
            hint=_HINT,
        )
    for info in infos.values():
        if info.dtype not in WEIGHT_DTYPES and _is_weight(info):
            raise UnsupportedModelError(
                "The checkpoint is quantised: a weight is not stored as floating-point numbers "
                "of 16 bits or more.",
                where=info.name,
                found=f"{DTYPE_NAMES[info.dtype]} {list(info.shape)}",
                expected="F32, F16 or BF16",
                hint=_HINT,
            )


def _is_weight(info: TensorInfo) -> bool:
    """Matrices named weight or packed codes; GPT-2's causal masks and position ids are not."""
    last = info.name.rsplit(".", 1)[-1]
    if last in {"weight", "qweight", "weight_packed", "qzeros", "weight_scale_inv"}:
        return True
    return info.dtype.is_floating_point and len(info.shape) >= 2
