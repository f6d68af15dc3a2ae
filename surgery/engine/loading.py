"""Load a result: the runtime's loader, its errors in this package's vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from surgery.engine.block import checkpoint_error
from surgery.errors import UsageError
from surgery.runtime import LoadError
from surgery.runtime import load as load_directory


def load(
    path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attn_implementation: str | None = None,
    model_class: type[Any] | None = None,
) -> PreTrainedModel:
    """Load a model directory, restructured or dense, as a transformers model.

    The result generates, caches (at the pruned width), saves and moves like any transformers
    model. Only safetensors are read, and no code found in the directory is ever run.

    Args:
        path: A directory with ``config.json`` and safetensors.
        dtype: Floating-point dtype of the weights, or ``"auto"`` for the stored one. Default:
            float32 on the CPU, the stored dtype on an accelerator.
        device: Where to put the model. Default: the CPU.
        attn_implementation: ``"sdpa"``, ``"eager"`` or another one transformers knows.
            Default: what transformers chooses.
        model_class: A transformers model class or auto class. Default: the one that
            ``architectures`` in config.json names, or else the family's base model.

    Raises:
        CheckpointError: If the directory cannot be loaded; it says why.
    """
    try:
        return load_directory(
            path,
            dtype=dtype,
            device=device,
            attn_implementation=attn_implementation,
            model_class=model_class,
        )
    except LoadError as error:
        raise checkpoint_error(error) from error


def check_device(device: str | None) -> None:
    """Refuse a device that is not there, before anything is loaded.

    Raises:
        UsageError: It is misspelled, or this machine has none.
    """
    if device is None:
        return
    try:
        chosen = torch.device(device)
        available = chosen.type != "cuda" or (chosen.index or 0) < torch.cuda.device_count()
        found = device if available else f"{device}, and this machine has {_cards()}"
    except RuntimeError as error:
        available, found = False, f"{device}: {str(error).splitlines()[0]}"
    if not available:
        raise UsageError(
            "There is no such device", where="--device", found=found, expected="cpu, cuda, cuda:1 …"
        )


def _cards() -> str:
    count = torch.cuda.device_count()
    return "no CUDA device" if count == 0 else f"{count} of them"
