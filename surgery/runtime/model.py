"""A transformers model class whose listed modules hold restructured weights or small parts.

The class is a subclass made on the fly: its constructor builds the stock model and then swaps
the modules that ``config.surgery`` lists. So ``from_pretrained`` and ``save_pretrained`` do
everything they do for the stock class, on the tensors that are there. Nothing is registered with
transformers, and none of its classes is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, cast

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel

from .cached_step import compare_once
from .errors import LoadError
from .families import family_swap
from .linears import swap_linear
from .manifest import FORMAT_VERSION, read_manifest, renamed
from .parts import FLOAT32_PARTS
from .spelling import path_in


class RestructuredModel:
    """Behaviour that a restructured model adds in front of its stock class."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]  # the stock class's
        restructure(cast(PreTrainedModel, self))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Convert every tensor, but leave what needs its 24 bits in float32.

        ``.to(torch.bfloat16)`` would round rotary inverse frequencies to 8 bits, which turns the
        angles at far positions into noise, and the small parts that are to be trained. Both
        follow the device only.
        """
        model = cast(nn.Module, self)
        kept = [
            (module, name, tensor.data)
            for module in model.modules()
            for name, tensor in _float32_tensors(module)
        ]
        result = super()._apply(fn, recurse)  # type: ignore[misc]  # nn.Module's
        for module, name, tensor in kept:
            converted = getattr(module, name)
            if converted.dtype != tensor.dtype:
                converted.data = tensor.to(converted.device)
        return result

    def _get_static_cache_init_shape(self) -> None:
        # Heads and widths of a static cache follow the first states; the config knows neither.
        return None

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class has no importable name: copies and pickles make it anew from the stock class.
        mro = type(self).__mro__
        return _blank, (mro[mro.index(RestructuredModel) + 1],), self.__dict__


class RestructuredGenerator(RestructuredModel):
    """One that generates: it trusts transformers' caches once it has compared them."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as the stock class does.

        Raises:
            LoadError: This release of transformers uses caches in a way that is not known here.
        """
        compare_once(cast(PreTrainedModel, self))
        return super().generate(*args, **kwargs)  # type: ignore[misc]  # the stock class's


def restructured_class(stock: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Return the subclass of a stock model class that runs restructured weights.

    It carries the stock class's name, which transformers writes into ``architectures`` and
    looks up for losses and pipelines.
    """
    return cast(type[PreTrainedModel], _subclass(cast(Any, stock)))


def _float32_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a module's own float32 tensors that no conversion may round."""
    for name, buffer in module.named_buffers(recurse=False):
        if name.endswith("inv_freq") and buffer.dtype == torch.float32:
            yield name, buffer
    for name, parameter in module.named_parameters(recurse=False):
        if name in FLOAT32_PARTS and parameter.dtype == torch.float32:
            yield name, parameter


@cache
def _subclass(stock: Any) -> type:
    body = {
        "__doc__": f"{stock.__name__} after surgery.",
        "__module__": __name__,
        # What transformers itself goes by when a checkpoint is loaded in half precision.
        "_keep_in_fp32_modules_strict": {
            *(stock._keep_in_fp32_modules_strict or ()),
            *FLOAT32_PARTS,
        },
    }
    if not issubclass(stock, GenerationMixin):
        return type(stock.__name__, (RestructuredModel, stock), body)
    # Named among the bases, or an auto class would make a new subclass of it at every loading.
    return type(stock.__name__, (RestructuredGenerator, stock, GenerationMixin), body)


def _blank(stock: type[PreTrainedModel]) -> PreTrainedModel:
    restructured = restructured_class(stock)
    return restructured.__new__(restructured)


def restructure(model: PreTrainedModel) -> None:
    """Swap the modules that ``model.config.surgery`` lists for those that run what was made.

    The new modules are not loaded yet. The block's module paths may carry the base model's
    prefix or lack it; afterwards ``model.config.surgery`` names them as this model does.

    Raises:
        LoadError: If the block is malformed, or names a module that the model does not have.
    """
    config: Any = model.config
    config.surgery = _swap(model, config.surgery)


def add_operation(model: PreTrainedModel, operation: Mapping[str, Any]) -> None:
    """Give a loaded model the small parts of one more operation; they are not loaded yet.

    The model becomes what it were if its checkpoint had listed the operation last.

    Args:
        model: A stock model, or one that holds what earlier operations made.
        operation: ``method`` and ``sites``, as in config.json.

    Raises:
        LoadError: If it is malformed, or names a map that the model lacks or that has parts.
    """
    config: Any = model.config
    block = getattr(config, "surgery", None) or {"format_version": FORMAT_VERSION, "operations": []}
    added = _swap(model, {**block, "operations": [operation]})
    config.surgery = {**block, "operations": [*block["operations"], *added["operations"]]}
    if not isinstance(model, RestructuredModel):
        model.__class__ = restructured_class(type(model))


def _swap(model: PreTrainedModel, block: Any) -> dict[str, Any]:
    """Swap the modules that a block lists; return it as this model spells their paths."""
    config: Any = model.config
    manifest = read_manifest(block)
    paths: dict[str, str] = {}
    if manifest.layouts:
        swap = family_swap(config.model_type)
        for path, layout in manifest.layouts.items():
            paths[path] = _resolve(model, path)
            swap(model, paths[path], layout)
    if manifest.neurons:
        from .narrow import cut_neurons

        for path, neurons in manifest.neurons.items():
            paths[path] = _resolve(model, path)
            cut_neurons(model, paths[path], neurons)
    for path, (method, entry) in manifest.linears.items():  # after the widths are known
        paths[path] = _resolve(model, path)
        swap_linear(model, paths[path], method, entry)
    return renamed(block, paths)


def _resolve(model: PreTrainedModel, path: str) -> str:
    """Return how ``model`` spells a module path of the checkpoint."""
    found = path_in(model, path)
    if found is not None:
        return found
    raise LoadError(
        "The surgery block names a module that the model does not have.",
        where=f"config.json: surgery, site {path!r}",
        found=f"no such module in {type(model).__name__}",
        expected="the path of an attention module, feed-forward block or linear map",
    )
