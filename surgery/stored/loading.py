"""Load a result or an adapter: the runtime's loader, its errors in this package's vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from surgery.architectures import ARCHITECTURES, Config, class_of, find_prefix
from surgery.carried.outdated import note_outdated
from surgery.checkpoint.directory import DirectorySource, is_adapter
from surgery.checkpoint.source import TensorSource
from surgery.errors import CheckpointError, SurgeryError, UsageError
from surgery.runtime import load as load_directory
from surgery.runtime.model import add_operation
from surgery.runtime.spelling import spelled_in
from surgery.stored.adapted import AdaptedSource, open_model
from surgery.stored.adapter_content import Adapter
from surgery.stored.block import translated
from surgery.stored.dense import dense_directory
from surgery.stored.shapes import check_floats
from surgery.stored.stream import cast


def load(
    path: str | Path,
    *,
    base: str | Path | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attn_implementation: str | None = None,
    model_class: type[Any] | None = None,
) -> PreTrainedModel:
    """Load a model directory, restructured or dense, as a transformers model.

    The result generates, caches (at the pruned width), saves and moves like any transformers
    model. Only safetensors are read, and no code found in the directory is ever run.

    Args:
        path: A directory with ``config.json`` and safetensors, or an adapter.
        base: The base of an adapter, if it is not where it was.
        dtype: Floating-point dtype of the weights, or ``"auto"`` for the stored one. Default:
            float32 on the CPU, the stored dtype on an accelerator.
        device: Where to put the model. Default: the CPU.
        attn_implementation: ``"sdpa"``, ``"eager"`` or another one transformers knows.
            Default: what transformers chooses.
        model_class: A transformers model class or auto class. Default: the one that
            ``architectures`` in config.json names, or else the one whose tensors are stored.

    Raises:
        CheckpointError: If the directory cannot be loaded; it says why.
        UsageError: If a base is given for what is no adapter.
    """
    options: dict[str, Any] = {
        "dtype": dtype,
        "device": device,
        "attn_implementation": attn_implementation,
        "model_class": model_class,
    }
    if base is None and not is_adapter(path):
        note_outdated(Path(path))
        known = _of_family(Path(path), model_class)
        with translated():
            return load_directory(path, **options, **known)
    with open_model(path, base=base) as source:
        return load_opened(source, Path(path), **options)


def load_opened(source: TensorSource, directory: Path, **options: Any) -> PreTrainedModel:
    """Load what was opened, without proving an adapter's base a second time.

    Args:
        source: A checkpoint, or an adapter on its base.
        directory: Where a checkpoint lies in transformers' layout.
        options: Those of :func:`load`.

    Raises:
        CheckpointError: If it cannot be loaded; it says why.
    """
    if not isinstance(source, AdaptedSource):
        return load(directory, **options)
    with translated():
        with dense_directory(source.base) as place:
            known = _of_family(place, options.get("model_class"))
            model = load_directory(place, **options, **known)
        if source.adapter.operation is not None:
            add_operation(model, source.adapter.operation)
    put_tensors(model, source.adapter, whole=options.get("model_class") is None)
    return model


def _of_family(directory: Path, model_class: type[Any] | None) -> dict[str, Any]:
    """Return what the family's data tells the loader of a directory; nothing where it is none.

    Raises:
        CheckpointError: The tensors' names are no model's, or those of no class.
    """
    try:
        with DirectorySource(directory) as source:
            raw, names = source.config, source.infos
    except SurgeryError:
        return {}  # the loader says what is wrong
    family = ARCHITECTURES.get(raw["model_type"])
    if family is None:
        return {}
    prefix = find_prefix(family, names, where=str(directory))
    check_floats(family, names, prefix, where=str(directory))
    if model_class is not None:
        return {"ignored": family.ignored}
    config = Config(family, raw, f"{directory.name}/config.json")
    one = class_of(family, config, names, prefix, where=str(directory))
    return {"ignored": family.ignored, "fallback": None if one is None else one.name}


@torch.no_grad()
def put_tensors(model: PreTrainedModel, adapter: Adapter, *, whole: bool = True) -> None:
    """Put an adapter's tensors into a model that has a place for each, in the model's dtypes.

    Args:
        model: The base as loaded, small parts of the adapter's operation in place.
        adapter: The adapter.
        whole: Refuse tensors of a head that this class of model lacks; otherwise leave them out.

    Raises:
        CheckpointError: A tensor fits nothing, is not finite, or does not fit the dtype.
    """
    prefix = model.base_model_prefix
    body = {name for name, _ in model.base_model.named_children()}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, info in adapter.infos.items():
        spelled = spelled_in(parameters, name, prefix)
        if spelled is None and not whole and _top(name, prefix) not in body:
            continue
        found = None if spelled is None else tuple(parameters[spelled].shape)
        if spelled is None or found != info.shape:
            raise CheckpointError(
                f"The model has no place for the adapter's tensor {name}",
                where=adapter.directory,
                found=f"shape {list(info.shape)}",
                expected=f"a parameter of {type(model).__name__}"
                if found is None
                else f"shape {list(found)}",
            )
        parameter = parameters[spelled]
        parameter.copy_(cast(name, adapter.tensor(name), parameter.dtype))


def _top(name: str, prefix: str) -> str:
    return name.removeprefix(f"{prefix}.").split(".")[0]


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
