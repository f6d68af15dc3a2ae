"""Load a model directory, restructured or dense, as a transformers model."""

from __future__ import annotations

import json
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from .cached_step import compare_cached_step
from .configuration import accepted, config_class, said
from .errors import LoadError
from .families import family_swap
from .manifest import read_manifest
from .model import restructured_class
from .stock import stock_class

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

SHOWN = 5  # names listed in a message before it says how many more there are


def load(
    path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attn_implementation: str | None = None,
    model_class: type[Any] | None = None,
    fallback: str | None = None,
    ignored: Collection[str] = (),
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
            ``architectures`` in config.json names, or else ``fallback``. Tensors of other heads
            than this class has are then left out.
        fallback: Name of the class to take where config.json names none that transformers has.
            Default: the family's base model.
        ignored: Glob patterns, below the base model's prefix or anywhere when they start with
            ``/``, of stored tensors that may have no place in the model.

    Returns:
        The model in evaluation mode: an instance of the stock class, or of a subclass of it
        where the directory has a ``surgery`` block.

    Raises:
        LoadError: If the directory cannot be loaded; it says why.
    """
    directory = Path(path)
    raw = _read_json(directory / "config.json")
    kind = config_class(raw)
    stock = stock_class(raw, kind, model_class, fallback)
    _check_weight_files(directory)

    restructured = "surgery" in raw
    if restructured and read_manifest(raw["surgery"]).layouts:
        family_swap(raw["model_type"])
    config = _config(directory, raw, kind)
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
            found=said(error),
        ) from error
    _check_complete(directory, model, info, chosen=model_class is not None, ignored=ignored)
    if restructured and model.can_generate():
        compare_cached_step(model)
    return cast(PreTrainedModel, model)


def _is_about_input(error: Exception) -> bool:
    """Whether an error of transformers tells of bad input, not of a mistake in a program."""
    # Assertions and failed look-ups: an index of padding or an activation that does not exist.
    input_errors = (
        AssertionError,
        ImportError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    )
    if isinstance(error, input_errors):
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
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(
            "A file of the model directory cannot be read.",
            where=path,
            found=f"{type(error).__name__}: {error}",
            expected="a JSON object",
        ) from error
    if not isinstance(content, dict):
        raise LoadError("A file of the model directory holds no JSON object.", where=path)
    return content


def _config(directory: Path, raw: dict[str, Any], kind: type[PreTrainedConfig]) -> PreTrainedConfig:
    if raw.get("quantization_config") is not None:
        raise LoadError(
            "Quantised weights cannot be loaded.",
            where="config.json: quantization_config",
            expected="weights in float32, float16 or bfloat16",
        )
    config = accepted(
        lambda: kind.from_pretrained(str(directory), local_files_only=True),
        directory / "config.json",
    )
    # Both would act beyond this model: one patches classes of transformers, one names any file.
    for name in ("fusion_config", "transformers_weights"):
        if name in raw:
            setattr(config, name, None)
    # A class of this runtime saves no code beside itself, and so must not point to any.
    if hasattr(config, "auto_map"):
        del config.auto_map
    return config


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
    content = _read_json(index)
    if not isinstance(content.get("metadata"), dict):
        raise LoadError(
            "The index has no metadata, without which transformers loads nothing.",
            where=index,
            found=repr(content.get("metadata")),
            expected="an object, which may be empty",
        )
    shards = content.get("weight_map")
    names: list[Any] = [*shards.values()] if isinstance(shards, dict) else [None]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise LoadError(
                "The index names a shard that is not a file beside it.",
                where=index,
                found=repr(name),
                expected="plain file names",
            )
    for name in set(names):
        if not (directory / name).is_file():
            raise LoadError("A shard is missing.", where=directory / name)


def _check_complete(
    directory: Path,
    model: PreTrainedModel,
    info: dict[str, Any],
    *,
    chosen: bool,
    ignored: Collection[str],
) -> None:
    """Require that every tensor of the model was loaded, and every stored tensor used.

    Raises:
        LoadError: If a tensor is missing, has another shape, or fits nothing.
    """
    prefix = f"{model.base_model_prefix}."
    body = {name for name, _ in model.base_model.named_children()}

    def ignorable(name: str) -> bool:
        bare = name.removeprefix(prefix)
        left_over = any(fnmatchcase(bare, glob.removeprefix("/")) for glob in ignored)
        return left_over or (chosen and bare.split(".")[0] not in body)

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
                hint="where the checkpoint is of another class, name it in config.json's "
                "architectures, or pass model_class",
            )
