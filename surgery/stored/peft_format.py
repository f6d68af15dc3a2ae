"""PEFT's adapter directories: ``adapter_config.json`` and ``adapter_model.safetensors``.

Read and written as data, without PEFT itself. Only what this package can compute exactly is
read: LoRA (PiSSA and other starts included) and HRA, without extra modules, biases or variants.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgery.checkpoint.directory import read_json
from surgery.checkpoint.header import read_header
from surgery.checkpoint.mapped import MappedFile
from surgery.checkpoint.validate import check_finite
from surgery.errors import CheckpointError
from surgery.stored.peft_directory import CONFIG, check_is_adapter
from surgery.stored.peft_patterns import PatternError, first_match
from surgery.stored.peft_settings import KINDS, check_covers, check_kinds

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
PARTS = {
    "LORA": {"lora_A.weight": "lora_A", "lora_B.weight": "lora_B"},
    "HRA": {"hra_u": "hra_u"},
}
"""Adapter type to the ends of its tensors' names, and what they are called here."""
MERGE = "merge the adapter into the model with PEFT, and operate on that"


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter.

    Attributes:
        kind: ``LORA`` or ``HRA``.
        config: ``adapter_config.json``.
        modules: Its tensors by module path (PEFT's own prefix removed) and name.
    """

    kind: str
    config: Mapping[str, Any]
    modules: Mapping[str, Mapping[str, Tensor]]

    def scale(self, path: str) -> float:
        """Return LoRA's factor of one module: alpha over its rank, or the rank's root.

        Raises:
            CheckpointError: A pattern of alphas cannot be followed.
        """
        rank = self.modules[path]["lora_A"].shape[0]
        alpha = _by_pattern(self.config, "alpha_pattern", path, self.config.get("lora_alpha", 8))
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)


def read_adapter(directory: Path) -> Adapter:
    """Read an adapter directory.

    Raises:
        CheckpointError: It is unreadable or incomplete, or holds what cannot be computed here.
    """
    check_is_adapter(directory)
    config = read_json(directory / CONFIG)
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in PARTS:
        raise CheckpointError(
            "This kind of adapter cannot be imported",
            where=directory / CONFIG,
            found=f"peft_type {kind!r}",
            expected=" or ".join(PARTS) + " (PiSSA is a LORA)",
            hint=MERGE,
        )
    _refuse_variants(config, directory / CONFIG)
    check_kinds(config, directory / CONFIG)
    path = directory / WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            "The adapter has no safetensors",
            where=path,
            found=", ".join(sorted(one.name for one in directory.glob("adapter_model*"))) or None,
            hint="save it anew with PEFT's save_pretrained; pickled .bin files are never read",
        )
    header, _ = read_header(path)
    mapped = MappedFile(path)
    modules: dict[str, dict[str, Tensor]] = {}
    for info in header.tensors.values():
        module, part = _split_name(info.name, kind, path)
        modules.setdefault(module, {})[part] = mapped.tensor(info).float().clone()
    for module, parts in modules.items():
        _check_rank(config, module, _checked_rank(kind, module, parts, path))
    check_covers(config, modules, directory / CONFIG)
    return Adapter(kind, config, modules)


def _refuse_variants(config: Mapping[str, Any], where: Path) -> None:
    """Refuse settings that change what the adapter computes in ways this package does not know.

    Raises:
        CheckpointError: Names them.
    """
    wrong = [
        f"{key} = {value!r}"
        for key, value in config.items()
        if key not in KINDS and (value != "none" if key == "bias" else value)
    ]
    if wrong:
        raise CheckpointError(
            "The adapter uses settings that cannot be imported",
            where=where,
            found=", ".join(wrong)[:300],
            expected="a plain adapter of linear maps",
            hint=MERGE,
        )


def _split_name(name: str, kind: str, where: Path) -> tuple[str, str]:
    for end, part in PARTS[kind].items():
        if name.startswith(PREFIX) and name.endswith(f".{end}"):
            return name.removeprefix(PREFIX).removesuffix(f".{end}"), part
    raise CheckpointError(
        "The adapter holds a tensor that belongs to no linear map",
        where=where,
        found=name,
        expected=f"{PREFIX}<module>." + " or ".join(PARTS[kind]),
        hint="train without modules_to_save, or merge the adapter with PEFT"
        if name.startswith(PREFIX)
        else "another tool wrote it: save it with PEFT's save_pretrained, or convert its names",
    )


def _checked_rank(kind: str, module: str, parts: Mapping[str, Tensor], where: Path) -> int:
    """Return the rank of a module's tensors, or the number of its reflections.

    Raises:
        CheckpointError: They do not fit together, or hold what is no number or no reflection.
    """
    missing = [part for part in PARTS[kind].values() if part not in parts]
    shapes = {name: list(tensor.shape) for name, tensor in parts.items()}
    fits = not missing and all(tensor.dim() == 2 for tensor in parts.values())
    if fits and kind == "LORA":
        fits = parts["lora_A"].shape[0] == parts["lora_B"].shape[1]
    if not fits:
        raise CheckpointError(
            f"The adapter's tensors of {module} do not fit together",
            where=where,
            found=f"{shapes}",
            expected=", ".join(PARTS[kind].values()) + ", two-dimensional and of one rank",
        )
    for name, tensor in parts.items():
        check_finite(f"{where}: {module}.{name}", tensor)
    if kind == "LORA":
        return parts["lora_A"].shape[0]
    u = parts["hra_u"]
    # As PEFT computes lengths: squares, in single precision.
    lengths = u.square().sum(dim=0)
    if not bool((lengths.isfinite() & (lengths >= torch.finfo(u.dtype).tiny)).all()):
        raise CheckpointError(
            f"A column of {module}.hra_u has no direction to reflect along",
            where=where,
            found=f"squared lengths {lengths.tolist()}"[:200],
            expected="columns of a length that single precision can square",
            hint="PEFT divides by that length, and computes NaN or leaves the column out",
        )
    return u.shape[1]


def _check_rank(config: Mapping[str, Any], path: str, rank: int) -> None:
    """Require the rank that the configuration gives a module.

    Raises:
        CheckpointError: It gives another, or its patterns cannot be followed.
    """
    said = _by_pattern(config, "rank_pattern", path, config.get("r", 8))
    if said != rank:
        raise CheckpointError(
            "The adapter's configuration gives a module another rank than it has",
            where=f"{CONFIG}: r, rank_pattern",
            found=f"{said:g} for {path}",
            expected=rank,
            hint="PEFT takes the first pattern that matches, and sorts them when it saves: "
            "put them back in order",
        )


def _by_pattern(config: Mapping[str, Any], key: str, path: str, default: object) -> float:
    """Return the rank or alpha of a module, as PEFT looks it up.

    Args:
        config: The adapter's configuration.
        key: ``rank_pattern`` or ``alpha_pattern``.
        path: The module's path.
        default: Its value where no pattern matches.

    Raises:
        CheckpointError: A pattern cannot be followed, or what it stands for is no number.
    """
    patterns = config.get(key) or {}
    if not isinstance(patterns, Mapping):
        raise CheckpointError(
            f"{key} is no table of patterns", where=CONFIG, found=str(patterns)[:80]
        )
    tried = ""
    try:
        for tried, value in patterns.items():  # noqa: B007 (told in the message)
            if first_match([tried], path) is not None:
                break
        else:
            value = default
    except PatternError as error:
        raise CheckpointError(
            f"A pattern of {key} is a regular expression that cannot be followed",
            where=CONFIG,
            found=f"{tried[:80]}: {error}",
            expected="a module's path or its end; also ^, ., [0-9], (a|b), \\d, \\w, and behind a "
            "single character *, +, ? and {m,n}",
            hint=f"write the modules' paths out in {key}: PEFT takes the first that matches",
        ) from error
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(
            "The adapter's configuration has no number here",
            where=f"{CONFIG}: {key}" if value is not default else CONFIG,
            found=f"{value!r} for {path}",
        )
    return float(value)


def adapter_config(
    kind: str,
    ranks: Mapping[str, int],
    *,
    base: str,
    task_type: str | None,
    fan_in_fan_out: bool = False,
) -> dict[str, Any]:
    """Return ``adapter_config.json`` of an adapter to be written.

    Args:
        kind: ``LORA`` (its scale is one) or ``HRA``.
        ranks: Rank of every module, by path.
        base: Name of the model it belongs to.
        task_type: PEFT's task, where the model has one.
        fan_in_fan_out: The maps are stored ``(in, out)``.
    """
    most = max(ranks.values())
    config: dict[str, Any] = {
        "peft_type": kind,
        "task_type": task_type,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": most,
        "target_modules": sorted(ranks),
        "bias": "none",
        "modules_to_save": None,
    }
    if kind == "HRA":
        return {**config, "apply_GS": False, "init_weights": True}
    others = {path: rank for path, rank in ranks.items() if rank != most}
    return {
        **config,
        "lora_alpha": most,
        "lora_dropout": 0.0,
        "rank_pattern": others,
        "alpha_pattern": others,
        "use_rslora": False,
        "fan_in_fan_out": fan_in_fan_out,
        "init_lora_weights": True,
    }


def config_text(config: Mapping[str, Any]) -> str:
    """Return the configuration as a file's text."""
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def tensor_names(kind: str, module: str) -> dict[str, str]:
    """Return the names a module's tensors have in the file, by what they are called here."""
    return {part: f"{PREFIX}{module}.{end}" for end, part in PARTS[kind].items()}
