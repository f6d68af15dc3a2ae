"""Where in a model it drifts: hidden states after every layer, compared while they stream by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from surgery.evaluation.drift import RelativeError


def stack(model: nn.Module) -> Sequence[nn.Module]:
    """Return the layers of an encoder or decoder, first to last.

    In every family they are the first ``ModuleList`` of the base model: embeddings and front
    ends hold none, and lists within a layer come after the list of layers.
    """
    body = getattr(model, "base_model", model)
    for module in body.modules():
        if isinstance(module, nn.ModuleList):
            return list(module)
    return []


@contextmanager
def hooked(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Remove hooks on leaving."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def hidden_states(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect what every layer returns, in the order they run; hooks are gone on leaving.

    Yields:
        A list that fills during a forward pass: one tensor a layer, shape (batch, positions,
        width), uncopied. Clear it before the next pass.
    """
    states: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        states.append((output if isinstance(output, Tensor) else output[0]).detach())

    with hooked([layer.register_forward_hook(keep) for layer in layers]):
        yield states


class LayerErrors:
    """The relative error after every layer, over rows that come in pieces.

    Where two models differ in the number of their layers or in width, nothing corresponds and
    there are no figures.
    """

    def __init__(self) -> None:
        self._errors: list[RelativeError] | None = None
        self._comparable = True

    def add(self, reference: Sequence[Tensor], other: Sequence[Tensor]) -> None:
        """Add rows, (rows, width) of every layer."""
        if len(reference) != len(other) or any(
            y.shape != z.shape for y, z in zip(reference, other, strict=True)
        ):
            self._comparable = False
        if not self._comparable:
            return
        if self._errors is None:
            self._errors = [RelativeError() for _ in reference]
        for error, y, z in zip(self._errors, reference, other, strict=True):
            error.add(y, z)

    @property
    def values(self) -> list[float]:
        """Relative error after each layer, first to last; empty where nothing corresponds."""
        if self._errors is None or not self._comparable:
            return []
        return [error.value for error in self._errors]
