"""A transformers model class whose listed attention modules hold restructured weights.

The class is a subclass made on the fly: its constructor builds the stock model and then swaps
the attention modules that ``config.surgery`` lists. So ``from_pretrained`` and
``save_pretrained`` do everything they do for the stock class, on narrower tensors. Nothing is
registered with transformers, and none of its classes is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from .errors import LoadError
from .heads import HeadLayout
from .manifest import read_layouts, respelled

Swap = Callable[[nn.Module, str, HeadLayout], None]

MODEL_TYPES = ("bert", "gpt2", "llama", "mistral", "qwen2", "whisper")
"""Families whose restructured attention this runtime runs."""


def family_swap(model_type: str) -> Swap:
    """Return the function that swaps one attention module of a family.

    Raises:
        LoadError: If the family is not one of :data:`MODEL_TYPES`.
    """
    # Imported on demand: each pulls in the family's own modelling file.
    if model_type == "whisper":
        from .whisper import swap_whisper

        return swap_whisper
    if model_type in ("llama", "mistral", "qwen2"):
        from .rotary import swap_rotary

        return swap_rotary
    if model_type == "bert":
        from .bert import swap_bert

        return swap_bert
    if model_type == "gpt2":
        from .gpt2 import swap_gpt2

        return swap_gpt2
    raise LoadError(
        "This runtime cannot run a restructured model of this family.",
        where="config.json: model_type",
        found=model_type,
        expected="one of: " + ", ".join(MODEL_TYPES),
    )


class RestructuredModel:
    """Behaviour that a restructured model adds in front of its stock class."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]  # the stock class's
        restructure(cast(PreTrainedModel, self))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Convert every tensor, but leave rotary inverse frequencies in float32.

        ``.to(torch.bfloat16)`` would round them to 8 bits, which turns the angles at far
        positions into noise. They follow the device only.
        """
        model = cast(nn.Module, self)
        frequencies = [
            (module, name, buffer)
            for module in model.modules()
            for name, buffer in module.named_buffers(recurse=False)
            if name.endswith("inv_freq") and buffer.dtype == torch.float32
        ]
        result = super()._apply(fn, recurse)  # type: ignore[misc]  # nn.Module's
        for module, name, buffer in frequencies:
            converted = module.get_buffer(name)
            if converted.dtype != buffer.dtype:
                setattr(module, name, buffer.to(converted.device))
        return result

    def _get_static_cache_init_shape(self) -> None:
        # Heads and widths of a static cache follow the first states; the config knows neither.
        return None

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class has no importable name: copies and pickles make it anew from the stock class.
        return _blank, (type(self).__mro__[2],), self.__dict__


def restructured_class(stock: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Return the subclass of a stock model class that runs restructured weights.

    It carries the stock class's name, which transformers writes into ``architectures`` and
    looks up for losses and pipelines.
    """
    return cast(type[PreTrainedModel], _subclass(cast(Any, stock)))


@cache
def _subclass(stock: Any) -> type:
    body = {"__doc__": f"{stock.__name__} with restructured attention.", "__module__": __name__}
    return type(stock.__name__, (RestructuredModel, stock), body)


def _blank(stock: type[PreTrainedModel]) -> PreTrainedModel:
    restructured = restructured_class(stock)
    return restructured.__new__(restructured)


def restructure(model: PreTrainedModel) -> None:
    """Swap the attention modules that ``model.config.surgery`` lists for restructured ones.

    The new modules are not loaded yet. The block's module paths may carry the base model's
    prefix or lack it; afterwards ``model.config.surgery`` names them as this model does.

    Raises:
        LoadError: If the block is malformed, or names a module that the model does not have.
    """
    config: Any = model.config
    layouts = read_layouts(config.surgery)
    swap = family_swap(config.model_type)
    paths = {path: _resolve(model, path) for path in layouts}
    for path, layout in layouts.items():
        swap(model, paths[path], layout)
    config.surgery = respelled(config.surgery, paths)


def _resolve(model: PreTrainedModel, path: str) -> str:
    """Return how ``model`` spells a module path of the checkpoint."""
    prefix = f"{model.base_model_prefix}."
    for candidate in (path, prefix + path, path.removeprefix(prefix)):
        try:
            model.get_submodule(candidate)
        except AttributeError:
            continue
        return candidate
    raise LoadError(
        "The surgery block names a module that the model does not have.",
        where=f"config.json: surgery, site {path!r}",
        found=f"no such module in {type(model).__name__}",
        expected="the path of an attention module",
    )
