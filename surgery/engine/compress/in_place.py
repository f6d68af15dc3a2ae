"""Run a stock model with narrow feed-forward blocks: modules changed places, and change back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from surgery.architectures.base import FeedForwardRole
from surgery.architectures.feed_forward import FeedForwardSite
from surgery.calibration.modules import find_module
from surgery.calibration.without_layers import without_layers
from surgery.engine.compress.plan import CompressPlan
from surgery.methods.neuron_refit import NarrowDown, stacked


def modules_of(model: nn.Module, site: FeedForwardSite) -> dict[FeedForwardRole, nn.Module]:
    """Return the linear maps of a block by role; of those that are fused the last's."""
    roles = {stored.weight: role for role, stored in site.projections().items()}
    return {
        role: find_module(model, weight.removesuffix(".weight")) for weight, role in roles.items()
    }


@contextmanager
def as_it_was(model: nn.Module, sites: Sequence[FeedForwardSite]) -> Iterator[None]:
    """Give these blocks back as they were, whatever becomes of them inside."""
    modules = [module for site in sites for module in modules_of(model, site).values()]
    before = [(module, dict(module.__dict__), dict(module._parameters)) for module in modules]
    try:
        yield
    finally:
        for module, attributes, parameters in before:
            module.__dict__.update(attributes)
            module._parameters.clear()
            module._parameters.update(parameters)


@contextmanager
def narrowed(
    model: nn.Module,
    sites: Sequence[FeedForwardSite],
    result: Callable[[FeedForwardSite], NarrowDown],
) -> Iterator[None]:
    """Run with these blocks narrow."""
    with as_it_was(model, sites):
        for site in sites:
            narrow_block(model, site, result(site))
        yield


@contextmanager
def compressed(
    model: nn.Module,
    plan: CompressPlan,
    result: Callable[[FeedForwardSite], NarrowDown],
    cut: Callable[[], AbstractContextManager[None]],
) -> Iterator[None]:
    """Run with attention cut, layers gone and blocks narrow."""
    with cut(), without_layers(model, plan.gone), narrowed(model, plan.sites, result):
        yield


@torch.no_grad()
def narrow_block(model: nn.Module, site: FeedForwardSite, result: NarrowDown) -> None:
    """Make one block narrow, for good."""
    modules = modules_of(model, site)
    if not len(result.kept) and isinstance(modules["down"], Conv1D):  # which needs a neuron
        result = replace(result, kept=torch.arange(1), down=result.down.new_zeros(site.width, 1))
    for role, module in modules.items():
        weight: Tensor = module.weight  # type: ignore[assignment]  # a linear map's
        bias: Tensor | None = module.bias  # type: ignore[assignment]
        transposed = isinstance(module, Conv1D)
        kept = result.kept.to(weight.device)
        if role == "down":
            new = result.down.to(weight)
            new = new.T.contiguous() if transposed else new
            new_bias = bias if result.bias is None or bias is None else result.bias.to(bias)
        else:
            axis, times = site.axes()[site.projections()[role].weight]
            rows = stacked(kept, site.neurons, times)
            new = weight.index_select(axis, rows)
            new_bias = None if bias is None else bias.index_select(0, rows)
        _put(module, new, new_bias)


def _put(module: Any, weight: Tensor, bias: Tensor | None) -> None:
    module._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        module._parameters["bias"] = nn.Parameter(bias, requires_grad=False)
    if isinstance(module, Conv1D):
        module.nx, module.nf = weight.shape
    else:
        module.out_features, module.in_features = weight.shape
