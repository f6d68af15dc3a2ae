"""What the neurons of feed-forward blocks do on real input: second moments, one layer at a time.

A block's moments are f × f: more than a gigabyte at f = 11,008. So hidden states stay with their
batches and walk through a tower layer by layer (:mod:`.replay`); the moments of one layer are
summed, handed out, and are the caller's to use up before the next::

    C = Σ w h hᵀ / Σ w        μ = Σ w h / Σ w

h being what the block's down map is given at a position, w what the position counts: what it
counts as a query of attention, so padding counts for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from surgery.architectures.feed_forward import FeedForwardSite
from surgery.calibration.modules import find_module
from surgery.calibration.replay import Replay
from surgery.calibration.towers import Tower
from surgery.errors import SurgeryError, UsageError
from surgery.events import Event, Progress, ignore
from surgery.methods.neurons import NeuronMoments

STAGE = "Watching neurons"
AT_ONCE = 1 << 23
"""Numbers copied to float64 at once (64 MB)."""
COLUMNS = 1024
"""Neurons whose products are formed at once: of those above the diagonal none is formed."""


class NeuronSums:
    """Running sums of one block's moments, in float64 where the activations are.

    On the CPU for a device without float64. Activations may be of any dtype: each is converted
    before anything is computed from it.

    Args:
        neurons: f.
    """

    def __init__(self, neurons: int) -> None:
        self.neurons, self.weight = neurons, 0.0
        self._second: Tensor | None = None
        self._mean = torch.zeros(neurons, dtype=torch.float64)

    def add(self, h: Float[Tensor, "b t f"], weights: Float64[Tensor, "b t"]) -> None:
        """Add what the neurons did at some positions, which count ``weights``, 0 or more."""
        counted = weights > 0
        rows = h[counted.to(h.device)]
        weight = weights[counted]
        self.weight += float(weight.sum())
        step = max(1, AT_ONCE // self.neurons)
        for start in range(0, len(rows), step):
            self._add(rows[start : start + step], weight[start : start + step])

    def moments(self, where: str) -> NeuronMoments:
        """Return the means, on the CPU, and let go of the sums.

        Args:
            where: The block's name, for messages.

        Raises:
            SurgeryError: Nothing was added, or NaN or infinity was.
        """
        second, self._second = self._second, None
        if second is None:
            raise SurgeryError(
                "Calibration saw no input of a feed-forward block.",
                where=where,
                found="no position of positive weight",
                hint="calibrate on more data",
            )
        second = second.cpu().div_(self.weight)
        mean = self._mean.cpu() / self.weight
        if not bool(second.diagonal().isfinite().all()):
            raise SurgeryError(
                "A feed-forward block computed NaN or infinity on the calibration data.",
                where=where,
                hint="run the original model in float32, and look for damaged weights",
            )
        for start in range(0, self.neurons, COLUMNS):  # the other half
            part = slice(start, start + COLUMNS)
            end = min(start + COLUMNS, self.neurons)
            second[part, end:] = second[end:, part].mT
            second[part, part] = second[part, part].tril() + second[part, part].tril(-1).mT
        return NeuronMoments(second, mean, self.weight)

    def _add(self, h: Tensor, weights: Tensor) -> None:
        device = torch.device("cpu") if h.device.type == "mps" else h.device
        rows = h.to(device, torch.float64)
        weighted = rows * weights.to(device)[:, None]
        if self._second is None:
            self._second = rows.new_zeros(self.neurons, self.neurons)
            self._mean = self._mean.to(device)
        self._mean += weighted.sum(dim=0)
        for start in range(0, self.neurons, COLUMNS):
            part = slice(start, start + COLUMNS)
            self._second[start:, part].addmm_(weighted[:, start:].mT, rows[:, part])


def neuron_moments(
    model: nn.Module,
    sites: Sequence[FeedForwardSite],
    towers: Sequence[Tower],
    progress: Progress = ignore,
    *,
    known: Collection[str] = (),
    changing: bool = False,
) -> Iterator[tuple[FeedForwardSite, NeuronMoments]]:
    """Yield the moments of every block, in the order in which the blocks run.

    Only one block's moments are held here at a time. Beside them it takes the hidden states of
    every batch twice.

    Args:
        model: A stock transformers model, dense, in evaluation mode; float32 weights are advised.
        sites: The blocks.
        towers: Those that hold the blocks; others are not run.
        progress: Receives one event a layer.
        known: Paths of blocks whose moments the caller has already, from a run that was cut short,
            and that are not summed again.
        changing: The caller changes each block in place when it is yielded, and those that are
            known before: the layers behind see what that leaves.

    Raises:
        UsageError: No tower has a block, or the model has it restructured.
        SurgeryError: A block was not run, or computed NaN or infinity.
    """
    by_tower = [_by_layer(model, sites, tower, known) for tower in towers]
    total = sum(1 + max(by_layer) for by_layer in by_tower if by_layer)
    _check(sites, by_tower, known)
    done = 0
    progress(Event(STAGE, done, total))
    for tower, by_layer in zip(towers, by_tower, strict=True):
        if not by_layer:
            continue
        with torch.no_grad():
            replay = Replay.catch(tower.layers, tower.runs)
        for index in range(1 + max(by_layer)):
            sums = {site.path: NeuronSums(site.neurons) for site in by_layer.get(index, ())}
            with torch.no_grad(), _listening(model, by_layer.get(index, ()), sums, tower.weights):
                after = replay.step(index)
            done += 1
            progress(Event(STAGE, done, total))
            for site in by_layer.get(index, ()):
                yield site, sums.pop(site.path).moments(site.path)
            if changing and index in by_layer:
                with torch.no_grad():
                    after = replay.step(index)
            replay.hidden = after


def to_tensors(moments: NeuronMoments) -> dict[str, Tensor]:
    """Return one block's moments as tensors, to be kept for a run that is resumed."""
    weight = torch.tensor([moments.weight], dtype=torch.float64)
    return {"second": moments.second, "mean": moments.mean, "weight": weight}


def from_tensors(tensors: Mapping[str, Tensor]) -> NeuronMoments:
    """Return what :func:`to_tensors` was given."""
    return NeuronMoments(
        tensors["second"].clone(), tensors["mean"].clone(), float(tensors["weight"])
    )


@contextmanager
def _listening(
    model: nn.Module,
    sites: Sequence[FeedForwardSite],
    sums: Mapping[str, NeuronSums],
    weights: Sequence[Tensor],
) -> Iterator[None]:
    """Count what the blocks' down maps are given, batch by batch."""

    def attach(site: FeedForwardSite) -> Any:
        batches = iter(weights)

        def hear(_: nn.Module, args: tuple[Any, ...]) -> None:
            sums[site.path].add(args[0], next(batches))

        return down_module(model, site).register_forward_pre_hook(hear)

    handles = [attach(site) for site in sites]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def down_module(model: nn.Module, site: FeedForwardSite) -> nn.Module:
    """Return the module that reads a block's neurons.

    Raises:
        UsageError: The model has none, or not of the dense shape.
    """
    module = find_module(model, site.down.weight.removesuffix(".weight"))
    expected = (site.width, site.neurons)
    weight = getattr(module, "weight", None)
    found = tuple(weight.shape) if isinstance(weight, Tensor) else None
    if found != (expected[::-1] if site.down.transposed else expected):
        raise UsageError(
            "Statistics are taken of an original model, and this one was restructured.",
            where=site.down.weight,
            found=f"shape {list(found)}" if found else type(module).__name__,
            expected=f"shape {list(expected)}",
            hint="calibrate the original, or merge the restructured model first",
        )
    return module


def _by_layer(
    model: nn.Module, sites: Sequence[FeedForwardSite], tower: Tower, known: Collection[str]
) -> dict[int, list[FeedForwardSite]]:
    """Return the blocks whose moments are wanted, by the layer of the tower that has them."""
    found: dict[int, list[FeedForwardSite]] = {}
    for index, layer in enumerate(tower.layers):
        modules = set(layer.modules())
        unknown = (site for site in sites if site.path not in known)
        if own := [site for site in unknown if down_module(model, site) in modules]:
            found[index] = own
    return found


def _check(
    sites: Sequence[FeedForwardSite],
    by_tower: Sequence[Mapping[int, Sequence[FeedForwardSite]]],
    known: Collection[str],
) -> None:
    found = {one.path for by_layer in by_tower for own in by_layer.values() for one in own}
    for site in sites:
        if site.path not in found and site.path not in known:
            raise UsageError("No tower that is run holds a block.", where=site.path)
