"""Load a model directory, restructured or dense, as a transformers model."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from .cached_step import compare_cached_step
from .errors import LoadError
from .families import family_swap
from .manifest import read_manifest
from .model import restructured_class

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

LEFT_OVER = {"bert": ("pooler.", "cls.seq_relationship.")}
"""Tensors that published checkpoints of a family carry beyond what their ``architectures`` use."""

SHOWN = 5  # names listed in a message before it says how many more there are


def load(
    path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attn_implementation: str | None = None,
    model_class: type[Any] | None = None,
) -> PreTrainedModel:
    """Load a model directory for inference, as ``from_pretrained`` would.

    Only safetensors are read, and no code found in the directory is ever run. Every tensor must
    fit: none may be missing, unexpected or of another shape.

    Args:
        path: A directory with ``config.json`` and safetensors.
        dtype: Floating-point dtype of the weights, or ``"auto"`` for the stored one. Default:
            float32 on the CPU, the stored dtype on an accelerator.
        device: Where to put the model. Default: the CPU.
        attn_implementation: ``"sdpa"``, ``"eager"`` or another one transformers knows.
            Default: what transformers chooses.
        model_class: A transformers model class or auto class. Default: the one that
            ``architectures`` in config.json names, or else the family's base model. Tensors of
            other heads than this class has are then left out.

    Returns:
        The model in evaluation mode: an instance of the stock class, or of a subclass of it
        where the directory has a ``surgery`` block.

    Raises:
        LoadError: If the directory cannot be loaded; it says why.
    """
    directory = Path(path)
    raw = _read_json(directory / "config.json")
    config_class = _config_class(raw)
    stock = _stock_class(raw, config_class, model_class)
    _check_weight_files(directory)

    restructured = "surgery" in raw
    if restructured and read_manifest(raw["surgery"]).layouts:
        family_swap(raw["model_type"])
    config = _config(directory, raw, config_class)
    target = torch.device("cpu" if device is None else device)
    options: dict[str, Any] = {
        "config": config,
        "dtype": (torch.float32 if target.type == "cpu" else "auto") if dtype is None else dtype,
        "use_safetensors": True,
        "local_files_only": True,
        "trust_remote_code": False,
        "ignore_mismatched_sizes": True,  # reported by _check_complete, with names and shapes
        "output_loading_info": True,
    }
    if target.type != "cpu":
        options["device_map"] = {"": target}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation

    builder: Any = restructured_class(stock) if restructured else stock
    try:
        model, info = builder.from_pretrained(str(directory), **options)
    except LoadError:
        raise
    except Exception as error:
        if not _is_about_input(error):
            raise
        raise LoadError(
            "transformers could not load the directory.",
            where=directory,
            found=f"{type(error).__name__}: {error}",
        ) from error
    _check_complete(directory, model, info, chosen=model_class is not None)
    if restructured and model.can_generate():
        compare_cached_step(model)
    return cast(PreTrainedModel, model)


def _is_about_input(error: Exception) -> bool:
    """Whether an error of transformers tells of bad input, not of a mistake in a program."""
    if isinstance(error, (ImportError, OSError, RuntimeError, TypeError, ValueError)):
        return True
    # Their errors derive from Exception alone, and the two cannot be imported here.
    return type(error).__module__.partition(".")[0] in ("huggingface_hub", "safetensors")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.parent.is_dir():
        raise LoadError(
            "There is no such model directory.",
            where=path.parent,
            expected="a directory with config.json and safetensors",
            hint="`surgery.load` takes a local directory; download the model first",
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadError(
            "A file of the model directory cannot be read.",
            where=path,
            found=f"{type(error).__name__}: {error}",
            expected="a JSON object",
        ) from error
    if not isinstance(content, dict):
        raise LoadError("A file of the model directory holds no JSON object.", where=path)
    return content


def _config_class(raw: dict[str, Any]) -> type[PreTrainedConfig]:
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise LoadError(
            "transformers has no model of this type.",
            where="config.json: model_type",
            found=repr(model_type),
            expected="a model type of the installed transformers, such as whisper or llama",
            hint="a model that needs code of its own cannot be loaded: that code is never run",
        )
    return CONFIG_MAPPING[model_type]


def _config(
    directory: Path, raw: dict[str, Any], config_class: type[PreTrainedConfig]
) -> PreTrainedConfig:
    if raw.get("quantization_config") is not None:
        raise LoadError(
            "Quantised weights cannot be loaded.",
            where="config.json: quantization_config",
            expected="weights in float32, float16 or bfloat16",
        )
    try:
        config = config_class.from_pretrained(str(directory), local_files_only=True)
    except Exception as error:
        if not _is_about_input(error):
            raise
        raise LoadError(
            "config.json does not describe a model of its type.",
            where=directory / "config.json",
            found=f"{type(error).__name__}: {error}",
        ) from error
    # Both would act beyond this model: one patches classes of transformers, one names any file.
    for name in ("fusion_config", "transformers_weights"):
        if name in raw:
            setattr(config, name, None)
    # A class of this runtime saves no code beside itself, and so must not point to any.
    if hasattr(config, "auto_map"):
        del config.auto_map
    return config


def _stock_class(
    raw: dict[str, Any], config_class: type[PreTrainedConfig], chosen: type[Any] | None
) -> type[PreTrainedModel]:
    """Return the caller's class, the one ``architectures`` names, or the family's base model."""
    if chosen is not None:
        mapping = getattr(chosen, "_model_mapping", None)  # of an auto class
        if mapping is not None and config_class in mapping:
            chosen = mapping[config_class]
        if not _is_model_of(chosen, config_class):
            raise LoadError(
                "model_class does not fit the directory.",
                found=getattr(chosen, "__name__", chosen),
                expected=f"a transformers model class for model_type {raw['model_type']!r}",
            )
        return cast(type[PreTrainedModel], chosen)
    for name in raw.get("architectures") or ():
        # Only classes that the installed transformers itself exports: `auto_map` is not read.
        named = getattr(transformers, name, None) if isinstance(name, str) else None
        if _is_model_of(named, config_class) and named.__module__.startswith("transformers."):
            return cast(type[PreTrainedModel], named)
    if config_class not in MODEL_MAPPING:
        raise LoadError(
            "config.json names no model class that transformers has.",
            where="config.json: architectures",
            found=raw.get("architectures"),
            hint="pass model_class",
        )
    return cast(type[PreTrainedModel], MODEL_MAPPING[config_class])


def _is_model_of(candidate: Any, config_class: type[PreTrainedConfig]) -> bool:
    return (
        inspect.isclass(candidate)
        and issubclass(candidate, PreTrainedModel)
        and candidate.config_class is config_class
    )


def _check_weight_files(directory: Path) -> None:
    """Require the safetensors that the directory promises, all of them inside it."""
    if (directory / WEIGHTS).is_file():
        return
    index = directory / WEIGHTS_INDEX
    if not index.is_file():
        raise LoadError(
            "The model directory holds no safetensors.",
            where=directory,
            expected=f"{WEIGHTS} or {WEIGHTS_INDEX}",
        )
    shards = _read_json(index).get("weight_map")
    names = set(shards.values()) if isinstance(shards, dict) else {None}
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise LoadError(
                "The index names a shard that is not a file beside it.",
                where=index,
                found=repr(name),
                expected="plain file names",
            )
        if not (directory / name).is_file():
            raise LoadError("A shard is missing.", where=directory / name)


def _check_complete(
    directory: Path, model: PreTrainedModel, info: dict[str, Any], *, chosen: bool
) -> None:
    """Require that every tensor of the model was loaded, and every stored tensor used.

    Raises:
        LoadError: If a tensor is missing, has another shape, or fits nothing.
    """
    prefix = f"{model.base_model_prefix}."
    body = {name for name, _ in model.base_model.named_children()}
    left_over = LEFT_OVER.get(model.config.model_type, ())

    def ignorable(name: str) -> bool:
        bare = name.removeprefix(prefix)
        return bare.startswith(left_over) or (chosen and bare.split(".")[0] not in body)

    mismatched = [
        f"{name} {tuple(found)} instead of {tuple(expected)}"
        for name, found, expected in info["mismatched_keys"]
    ]
    problems = (
        ("Tensors are missing from the checkpoint.", info["missing_keys"]),
        ("Tensors have other shapes than config.json says.", mismatched),
        (
            "The checkpoint holds tensors that the model has no place for.",
            [name for name in info["unexpected_keys"] if not ignorable(name)],
        ),
    )
    for message, names in problems:
        if names:
            listed = sorted(names)
            more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
            raise LoadError(
                message,
                where=directory,
                found=", ".join(listed[:SHOWN]) + more,
                expected=f"the tensors of {type(model).__name__}",
                hint="pass model_class where the checkpoint is of another class",
            )
