"""A stack of layers, run one layer at a time on the same batches: as it is, and as it is changed.

What a layer is given beside its hidden states (masks, rotary angles, an encoder's states) is
caught while the model runs as it always does, so nothing here knows a family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from surgery.evaluation.layers import hooked

HIDDEN = "hidden_states"
"""What transformers calls a layer's first argument where it is given by name."""


@dataclass(frozen=True, eq=False)
class Call:
    """What one layer is given for one batch, its hidden states aside."""

    args: tuple[Any, ...]
    given: dict[str, Any]
    by_name: bool

    def run(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """Return the layer's hidden states, (sequences, positions, width)."""
        if self.by_name:
            output = layer(*self.args, **{HIDDEN: hidden}, **self.given)
        else:
            output = layer(hidden, *self.args, **self.given)
        states: Tensor = output if isinstance(output, Tensor) else output[0]
        return states


Returned = tuple[type, int]
"""The type of what a layer returns, and how long a tuple is."""
_RETURNED: dict[Returned, Callable[[Tensor], Any]] = {
    (Tensor, 0): lambda states: states,
    (tuple, 1): lambda states: (states,),
}
"""What a layer that does nothing returns, where it returns hidden states alone."""


class Replay:
    """Hidden states of every batch, on their way through a stack.

    Attributes:
        hidden: Of every batch, before the next layer, (sequences, positions, width).
    """

    def __init__(
        self, layers: Sequence[nn.Module], hidden: list[Tensor], calls: list[list[Call]]
    ) -> None:
        self.layers, self.hidden, self.calls = layers, hidden, calls

    @classmethod
    def catch(cls, layers: Sequence[nn.Module], runs: Sequence[Callable[[], Any]]) -> Replay:
        """Run the model on every batch, and note what each layer is given.

        Beside hidden states that is the same whatever the layers compute: behind the first batch
        they only hand on what they get, where that is all they return.

        Args:
            layers: The stack, first to last; each runs once a batch.
            runs: Runs the model on a batch each.
        """
        first, calls = list[Tensor](), list[list[Call]]()
        idle: Callable[[], AbstractContextManager[None]] = nullcontext
        for run in runs:
            with _listening(layers) as heard, idle():
                run()
            hidden, own, said = heard
            if len(set(said)) == 1 and said[0] in _RETURNED:
                idle = partial(_idle, layers, _RETURNED[said[0]])
            if len(hidden) != 1 or len(own) != len(layers):
                raise ValueError("a layer did not run once")
            first += hidden
            calls.append(own)
        return cls(layers, first, calls)

    def copy(self) -> Replay:
        """Return the same batches, to be led another way."""
        return Replay(self.layers, list(self.hidden), self.calls)

    def step(self, index: int) -> list[Tensor]:
        """Run layer ``index`` on every batch and return its hidden states, keeping nothing."""
        layer = self.layers[index]
        return [
            calls[index].run(layer, hidden)
            for calls, hidden in zip(self.calls, self.hidden, strict=True)
        ]


@contextmanager
def _listening(
    layers: Sequence[nn.Module],
) -> Iterator[tuple[list[Tensor], list[Call], list[Returned]]]:
    """Hear the stack's input, what each layer is given beside it, and what each returns."""
    first, calls, said = list[Tensor](), list[Call](), list[Returned]()

    def hear(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        by_name = HIDDEN in given
        hidden = given[HIDDEN] if by_name else args[0]
        rest = {name: value for name, value in given.items() if name != HIDDEN}
        if module is layers[0]:
            first.append(hidden)
        calls.append(Call(args if by_name else args[1:], rest, by_name))

    def heed(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        said.append((type(output), len(output) if isinstance(output, tuple) else 0))

    hooks = [layer.register_forward_pre_hook(hear, with_kwargs=True) for layer in layers]
    with hooked([*hooks, *(layer.register_forward_hook(heed) for layer in layers)]):
        yield first, calls, said


@contextmanager
def _idle(layers: Sequence[nn.Module], returned: Callable[[Tensor], Any]) -> Iterator[None]:
    """Let layers hand on their hidden states as they are."""

    def forward(*args: Any, **given: Any) -> Any:
        return returned(given[HIDDEN] if HIDDEN in given else args[0])

    own = [vars(layer).get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = forward
        yield
    finally:
        for layer, before in zip(layers, own, strict=True):
            del layer.forward
            if before is not None:
                layer.forward = before
