"""Run a stock model as if some of its layers had left the stack, and give it back as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from surgery.architectures import Architecture, architecture_of
from surgery.architectures.config import Config
from surgery.architectures.dropping import Dropped, Layer, by_tower, shallower, stack_path
from surgery.calibration.modules import find_module

INDEX = "layer_idx"
"""What transformers calls a layer's place in the cache of keys and values."""


@contextmanager
def without_layers(model: Any, layers: Iterable[Layer]) -> Iterator[None]:
    """Run a model without these layers, caches and masks included; the others are numbered anew.

    So modules have the names that they will have in what is written, and the configuration says
    what it will say. Weights are not touched.

    Args:
        model: A stock transformers model.
        layers: Those that are left out, by their numbers in ``model``.

    Raises:
        CheckpointError: The configuration speaks of layers in a way that nothing here knows.
    """
    dropped = by_tower(layers)
    with ExitStack() as undo:
        if dropped:
            family = architecture_of(model.config.to_dict())
            _shorten_config(model, family, dropped, undo)
            for scope, gone in dropped.items():
                _shorten(model, stack_path(family, scope), gone, undo)
        yield


def _shorten(model: nn.Module, path: str, gone: Iterable[int], undo: ExitStack) -> None:
    whole: Any = find_module(model, path)
    owner, name = next(
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if child is whole
    )
    stay = [layer for number, layer in enumerate(whole) if number not in set(gone)]
    undo.callback(setattr, owner, name, whole)
    setattr(owner, name, nn.ModuleList(stay))
    for number, layer in enumerate(stay):
        for module in layer.modules():
            if isinstance(getattr(module, INDEX, None), int):
                undo.callback(setattr, module, INDEX, getattr(module, INDEX))
                setattr(module, INDEX, number)


def _shorten_config(
    model: nn.Module, family: Architecture, dropped: Dropped, undo: ExitStack
) -> None:
    """Say everywhere in a model's configurations (there may be copies) that layers left."""
    owners: list[Any] = [each for each in model.modules() if hasattr(each, "config")]
    for config in {id(owner.config): owner.config for owner in owners}.values():
        raw = config.to_dict()
        short = shallower(family, raw, Config(family, raw, "config"), dropped, where="config")
        for key, value in short.items():
            if raw.get(key) != value and hasattr(config, key):
                undo.callback(setattr, config, key, getattr(config, key))
                setattr(config, key, value)
