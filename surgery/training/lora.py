"""LoRA through PEFT, the baseline: wrapped before training, and taken back as small parts after.

PEFT trains; its two factors are stored as ``pissa`` parts beside the unchanged weight, which is
what LoRA computes: ``x Wᵀ + scale·(x Aᵀ) Bᵀ`` (arXiv 2106.09685).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from surgery.errors import UsageError
from surgery.runtime.shards import whole
from surgery.stored.block import Operation
from surgery.stored.stored import Stored, TreatedLinear
from surgery.training.trained import stored_paths
from surgery.version import versions

Parts = dict[str, Tensor]

INSTALL = "pip install 'model-surgery[peft]'"


def wrap(model: Any, paths: Iterable[str], rank: int) -> Any:
    """Return the model inside PEFT, with LoRA of that rank on some of its linear maps.

    Every other parameter is frozen. The scale is 1 (``lora_alpha = rank``), there is no dropout,
    B starts at zero.

    Args:
        model: A transformers model.
        paths: Its linear maps.
        rank: Rank of every map's factors.

    Raises:
        UsageError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UsageError(
            "LoRA is trained by the peft package, which is not installed",
            where="--train lora",
            hint=INSTALL,
        ) from error
    chosen = sorted(paths)
    transposed = any(type(model.get_submodule(path)).__name__ == "Conv1D" for path in chosen)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        target_modules=chosen,
        fan_in_fan_out=transposed,
    )
    return get_peft_model(model, config)


def lora_parts(
    wrapped: Any, carried: Stored, paths: Sequence[str]
) -> tuple[dict[str, Parts], dict[str, Parts], dict[str, TreatedLinear], Operation]:
    """Return the trained factors as small parts of the checkpoint's maps.

    Args:
        wrapped: From :func:`wrap`.
        carried: The checkpoint the model was loaded from.
        paths: The maps, as the model spells them.

    Returns:
        By the checkpoint's path of each map: the parts at the start, the product of which is zero,
        and at the end, ``pissa_a (r, in)`` and ``pissa_b (out, r)``, float32; the maps with their
        method; and the operation that puts the parts into the checkpoint.
    """
    model = wrapped.get_base_model()
    stored = stored_paths(carried, model, paths)
    before: dict[str, Parts] = {}
    after: dict[str, Parts] = {}
    treated: dict[str, TreatedLinear] = {}
    for path in paths:
        module, name = model.get_submodule(path), stored[path]
        a, b = (
            whole(getattr(module, factor)["default"].weight.detach()).float().cpu().contiguous()
            for factor in ("lora_A", "lora_B")
        )
        after[name] = {"pissa_a": a, "pissa_b": b}
        before[name] = {"pissa_a": a, "pissa_b": b.new_zeros(b.shape)}
        entry = {"rank": a.shape[0], "scale": float(module.scaling["default"])}
        parts = {part: f"{name}.{part}" for part in after[name]}
        treated[name] = TreatedLinear(carried.maps[name], "pissa", entry, parts)
    operation: Operation = {
        "method": "pissa",
        "options": {"method": "lora"},
        "provenance": {
            "source": carried.source.name,
            "sha256": carried.source.sha256(),
            "versions": versions(),
        },
        "sites": {path: dict(one.entry) for path, one in treated.items()},
    }
    return before, after, treated, operation
