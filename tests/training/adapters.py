"""Adapters of random numbers, made without training, and bases for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.runtime.parts import LINEAR_METHODS, part_shapes
from surgery.stored.adapter import write_adapter
from surgery.stored.stored import read_stored
from tests.engine.support import contents, tensors_of


def widened(source: Path, directory: Path) -> Path:
    """The same checkpoint in float64, where nothing is rounded."""
    directory.mkdir()
    for file, data in contents(source).items():
        (directory / file).write_bytes(data)
    tensors = {name: tensor.double() for name, tensor in tensors_of(source).items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def entry_of(method: str, out: int) -> dict[str, Any]:
    """An entry for a map of so many outputs, from what the method says it wants."""
    form = LINEAR_METHODS[method]
    return {
        **dict.fromkeys(form.counts, 2),
        **dict.fromkeys(form.numbers, 0.5),
        **{key: [out // 8 * 2, 2] for key in form.sizes},
        **dict.fromkeys(form.places, 3),
    }


def operation_of(method: str, base: TensorSource, *, every: int = 2) -> dict[str, Any]:
    """The operation of a method on every second map of a base that carries nothing yet."""
    stored = read_stored(base)
    free = [one for path, one in sorted(stored.maps.items()) if path not in stored.linears]
    sites = {one.path: entry_of(method, one.out_features) for one in free[::every]}
    provenance = {"source": base.name, "sha256": base.sha256(), "versions": {}}
    return {"method": method, "options": {}, "provenance": provenance, "sites": sites}


def new_parts(operation: dict[str, Any], base: TensorSource) -> dict[str, Tensor]:
    """Random float32 parts of an operation, large enough to change what the model computes."""
    torch.manual_seed(5)
    maps = read_stored(base).maps
    return {
        f"{path}.{part}": torch.randn(shape) * 0.3
        for path, entry in operation["sites"].items()
        for part, shape in part_shapes(
            operation["method"], entry, maps[path].out_features, maps[path].in_features
        ).items()
    }


def moved(base: TensorSource, *endings: str, by: float = 0.2) -> dict[str, Tensor]:
    """Tensors of a base, by the ends of their names, moved by random amounts, in float32."""
    torch.manual_seed(6)
    names = sorted(name for name in base.infos if name.endswith(endings))
    assert names
    return {
        name: base.tensor(name).float() + by * torch.randn(base.infos[name].shape) for name in names
    }


def add_parts(directory: Path, method: str, base: Path, *endings: str) -> Path:
    """Write an adapter that adds a method's parts to a base, and moves what ends so."""
    directory.mkdir()
    with resolve(str(base)) as source:
        operation = operation_of(method, source)
        tensors = new_parts(operation, source) | (moved(source, *endings) if endings else {})
        write_adapter(directory, tensors, base=source, method=method, operation=operation)
    return directory


def replace_parts(directory: Path, base: Path, *endings: str, **more: Any) -> Path:
    """Write an adapter that moves tensors which the base has."""
    directory.mkdir()
    with resolve(str(base)) as source:
        tensors = moved(source, *endings)
        write_adapter(directory, tensors, base=source, method="parts", **more)
    return directory
