"""What the neurons of feed-forward blocks do on real input, one layer at a time.

Second moments are f × f numbers a block, so no more than a layer's are ever held: hidden states of
all batches wait before a layer, its blocks are watched, and are given up before the next begins.
Where the caller makes a block narrower in between, the layers behind it see what that leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from surgery.architectures.feed_forward import FeedForwardSite
from surgery.calibration.modules import find_module
from surgery.calibration.replay import Replay
from surgery.calibration.stacks import Stack
from surgery.errors import SurgeryError
from surgery.methods.neurons import NeuronMoments

Watched = tuple[FeedForwardSite, NeuronMoments]


def watch(
    model: nn.Module,
    stacks: Sequence[Stack[FeedForwardSite]],
    fit: Callable[[FeedForwardSite, NeuronMoments | None], bool],
    known: Callable[[FeedForwardSite], bool] = lambda _: False,
) -> None:
    """Lead all input through a model, and hand over what each block's neurons did.

    Args:
        model: A stock model, in evaluation mode.
        stacks: Its towers, in the order in which they run.
        fit: Called with every block and its moments, in the order in which they run; says whether
            it has changed the block in place.
        known: Whether a block needs no moments: ``fit`` is then called with ``None``.

    Raises:
        SurgeryError: A block saw nothing, or computed NaN or infinity.
    """
    with torch.no_grad():
        for stack in stacks:
            replay = Replay.catch(stack.layers, stack.runs)
            for index, layer in enumerate(stack.layers):
                own = [site for site in stack.sites if _is_within(model, layer, site)]
                sums = [NeuronSums(site, stack.weights) for site in own if not known(site)]
                if not own or sums:
                    with _listening(model, sums):
                        after = replay.step(index)
                seen = {one.site: one for one in sums}
                changed = [
                    fit(site, seen.pop(site).moments() if site in seen else None) for site in own
                ]
                replay.hidden = replay.step(index) if any(changed) or (own and not sums) else after


class NeuronSums:
    """Running sums over the neurons of one block, in float64 where the activations are.

    Args:
        site: The block.
        weights: What every position of each batch counts.
    """

    def __init__(self, site: FeedForwardSite, weights: Sequence[Tensor]) -> None:
        self.site = site
        self._weights = iter(weights)
        self._second: Tensor | None = None
        self._mean: Tensor | None = None
        self._count = 0.0

    def hear(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        """Take in what the map behind the neurons is given of the next batch."""
        weights = next(self._weights).to(args[0].device)
        counted = weights > 0
        rows, weight = args[0][counted].double(), weights[counted]
        heavy = rows * weight.sqrt()[:, None]
        if self._second is None or self._mean is None:
            f = rows.shape[-1]
            self._second, self._mean = rows.new_zeros(f, f), rows.new_zeros(f)
        self._second.addmm_(heavy.mT, heavy)
        self._mean += weight @ rows
        self._count += float(weight.sum())

    def moments(self) -> NeuronMoments:
        """Return the means of what was taken in, on the CPU.

        Raises:
            SurgeryError: There was nothing, or NaN or infinity.
        """
        if self._second is None or self._mean is None or self._count <= 0:
            raise SurgeryError(
                "Calibration saw no input of a feed-forward block.",
                where=self.site.path,
                hint="calibrate on more data",
            )
        second, mean = self._second.cpu() / self._count, self._mean.cpu() / self._count
        if not bool(second.isfinite().all()):
            raise SurgeryError(
                "A feed-forward block computed NaN or infinity on the calibration data.",
                where=self.site.path,
                hint="run the original model in float32, and look for damaged weights",
            )
        return NeuronMoments((second + second.mT) / 2, mean, self._count)


@contextmanager
def _listening(model: nn.Module, sums: Sequence[NeuronSums]) -> Iterator[None]:
    handles = [
        _down(model, one.site).register_forward_pre_hook(one.hear)  # what down is given
        for one in sums
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _down(model: nn.Module, site: FeedForwardSite) -> nn.Module:
    return find_module(model, site.down.weight.removesuffix(".weight"))


def _is_within(model: nn.Module, layer: nn.Module, site: FeedForwardSite) -> bool:
    down = _down(model, site)
    return any(module is down for module in layer.modules())
