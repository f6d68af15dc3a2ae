"""Hooks that hand queries, keys and contexts of stock attention modules to accumulators.

q and k are taken from the outputs of their projections, with their biases and before the softmax
scale, and are then normed and rotated as the module does; contexts are the input of o.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from surgery.architectures.base import AttentionSite, Role, Scope
from surgery.calibration.modules import AttentionModules
from surgery.calibration.moments import Accumulator, Moments
from surgery.runtime.arguments import Arguments


@dataclass(frozen=True, eq=False)
class Weights:
    """What every position of one batch counts: float64, on the CPU.

    Attributes:
        queries: ``(sequences, query positions)``.
        keys: ``(sequences, key positions)``; in cross-attention the encoder's.
    """

    queries: Tensor
    keys: Tensor


class Recorder:
    """Watches attention blocks while it is entered; leaves nothing behind.

    It counts only what is computed inside :meth:`listening`: the model may run for other
    purposes in between.

    Args:
        model: A stock transformers model, dense.
        sites: The blocks.

    Raises:
        UsageError: The model does not have a block, or has it restructured.
    """

    def __init__(self, model: nn.Module, sites: Sequence[AttentionSite]) -> None:
        self._blocks = [_Block(model, site) for site in sites]
        self._handles: list[RemovableHandle] = []
        self._weights: Mapping[Scope, Weights] = {}

    def __enter__(self) -> Self:
        """Attach the hooks."""
        for block in self._blocks:
            self._handles += block.attach(self._weights_of)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Remove them."""
        while self._handles:
            self._handles.pop().remove()

    @contextmanager
    def listening(self, weights: Mapping[Scope, Weights]) -> Iterator[None]:
        """Count what blocks of these scopes compute inside, at these weights."""
        self._weights = weights
        try:
            yield
        finally:
            self._weights = {}

    def moments(self) -> dict[str, Moments]:
        """Return the moments of every block by its path.

        Raises:
            SurgeryError: A block was not run, or computed NaN or infinity.
        """
        return {block.site.path: block.sums.moments(block.site.path) for block in self._blocks}

    def _weights_of(self, scope: Scope) -> Weights | None:
        return self._weights.get(scope)


class _Block:
    """One attention block: its modules, its hooks, its sums."""

    def __init__(self, model: nn.Module, site: AttentionSite) -> None:
        self.site = site
        self.sums = Accumulator(site.kv_heads, site.groups, site.head_dim)
        self._modules = AttentionModules(model, site)
        self._rotation: tuple[Tensor, Tensor] | None = None
        self._v_bias = self._modules.absorbed_bias()

    def attach(self, weights: Callable[[Scope], Weights | None]) -> list[RemovableHandle]:
        """Hook the modules; ``weights`` says what a scope's positions count, or to ignore them."""
        site = self.site

        def rotation(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
            self._rotation = arguments.read(args, given)[0]["position_embeddings"]

        def queries(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            if (current := weights(site.scope)) is not None:
                self.sums.add_queries(self._heads(output, "q"), current.queries)

        def keys(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            if (current := weights(site.scope)) is not None:
                sequences = current.queries.sum(dim=1)
                self.sums.add_keys(self._heads(output, "k"), current.keys, sequences)

        def contexts(_: nn.Module, args: tuple[Any, ...]) -> None:
            if (current := weights(site.scope)) is not None:
                heads = torch.unflatten(args[0], -1, (site.heads, site.head_dim))
                self.sums.add_contexts(heads, current.queries, self._v_bias)

        handles = [
            self._modules.projections["q"].register_forward_hook(queries),
            self._modules.projections["k"].register_forward_hook(keys),
            self._modules.projections["o"].register_forward_pre_hook(contexts),
        ]
        if "rope" in site.between:
            from surgery.runtime.rotary import RotaryHeads  # imports transformers' caches

            arguments = Arguments(type(self._modules.attention), RotaryHeads.TAKES)
            handles.append(
                self._modules.attention.register_forward_pre_hook(rotation, with_kwargs=True)
            )
        return handles

    def _heads(self, output: Tensor, role: Role) -> Tensor:
        """A projection's output (B, T, n) as heads (B, T, H or G, d), rotated where RoPE is."""
        heads = self._modules.heads(output, role)
        if self._rotation is None:
            return heads
        cosine, sine = (part[..., None, :] for part in self._rotation)
        turned, rest = heads.tensor_split([cosine.shape[-1]], dim=-1)
        real, imaginary = turned.chunk(2, dim=-1)
        turned = turned * cosine + torch.cat((-imaginary, real), dim=-1) * sine
        return torch.cat((turned, rest), dim=-1)
