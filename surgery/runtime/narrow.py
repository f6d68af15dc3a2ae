"""Feed-forward blocks with fewer neurons than config.json says, each with its own number.

The stock block stays, and so do its maps: only their weights have fewer rows, or columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .errors import LoadError

INTO = ("gate_proj", "up_proj", "gate_up_proj", "c_fc", "fc1", "intermediate.dense")
"""Names, below a block, of the maps into its neurons."""
FUSED = {"gate_up_proj": 2}
"""Of these maps, how many are in one."""
OUT_OF = ("down_proj", "c_proj", "fc2", "output.dense")
"""Of the map out of them."""


class EmptyConv1D(Conv1D):
    """A map from no neuron: its bias, everywhere. ``Conv1D`` itself cannot reshape nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the bias for activations ``(..., 0)``."""
        return x @ self.weight + self.bias


def cut_neurons(model: nn.Module, path: str, neurons: int) -> None:
    """Give the feed-forward block at ``path`` that many neurons, in place.

    Modules, hooks and devices stay; weights are to be loaded yet.

    Args:
        model: The model that holds the block.
        path: The smallest module that holds its maps.
        neurons: How many; with none the block is its output bias, or zero.

    Raises:
        LoadError: There is no such block, or it has fewer neurons.
    """
    block = model.get_submodule(path)
    into, out = _neuron_maps(block, INTO), _neuron_maps(block, OUT_OF)
    if not into or len(out) != 1:
        raise LoadError(
            "The surgery block names a feed-forward block that the model does not have.",
            where=path,
            found=type(block).__name__,
            expected=f"linear maps called {', '.join((*INTO, *OUT_OF))}",
        )
    ends = (*((name, each, True) for name, each in into.items()), ("", *out.values(), False))
    for name, module, outputs in ends:
        axis = int(outputs == isinstance(module, Conv1D))
        times = FUSED.get(name, 1)
        stored = module.weight.shape[axis] // times
        if neurons > stored:
            raise LoadError(
                "The surgery block contradicts the rest of config.json.",
                where=path,
                found=f"{neurons} neurons",
                expected=f"at most {stored}",
                hint="the file was edited, or belongs to other weights",
            )
        _cut_axis(module, "weight", axis, times * neurons)
        if outputs and module.bias is not None:
            _cut_axis(module, "bias", 0, times * neurons)
        if isinstance(module, Conv1D):
            module.nx, module.nf = module.weight.shape
        else:
            module.out_features, module.in_features = module.weight.shape
    (last,) = out.values()
    if isinstance(last, Conv1D) and not neurons:
        last.__class__ = EmptyConv1D


def _neuron_maps(block: nn.Module, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the linear maps that a block has of these, by name."""
    modules = dict(block.named_modules())
    linear = (nn.Linear, Conv1D)
    return {name: modules[name] for name in names if isinstance(modules.get(name), linear)}


@torch.no_grad()
def _cut_axis(module: nn.Module, name: str, axis: int, neurons: int) -> None:
    whole: Tensor = getattr(module, name)
    module.register_parameter(name, nn.Parameter(whole.narrow(axis, 0, neurons).clone()))
