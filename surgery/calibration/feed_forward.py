"""What the neurons of feed-forward blocks do on real input: second moments, one layer at a time.

A block's moments are f × f: more than a gigabyte at f = 11,008. So hidden states stay with their
batches and walk through a tower layer by layer (:mod:`.replay`); the moments of one layer are
summed, handed out, and are the caller's to use up before the next::

    C = Σ w h hᵀ / Σ w        μ = Σ w h / Σ w

h being what the block's down map is given at a position, w what the position counts: what it
counts as a query of attention, so padding counts for nothing.

Where the caller changes blocks on the way, hidden states can walk through the model as it was, too:
what a block said there is what it is to say (:class:`surgery.methods.neurons.Wanted`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import zip_longest
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from surgery.architectures.feed_forward import FeedForwardSite
from surgery.calibration.modules import find_module
from surgery.calibration.replay import Replay
from surgery.calibration.towers import Tower
from surgery.errors import SurgeryError, UsageError
from surgery.events import Event, Progress, ignore
from surgery.methods.neurons import NeuronMoments, Wanted

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
        self._crossed, self._said = (torch.zeros((), dtype=torch.float64) for _ in range(2))
        self._energy: float | None = None

    def add(
        self,
        h: Float[Tensor, "b t f"],
        weights: Float64[Tensor, "b t"],
        wanted: Float[Tensor, "b t d"] | None = None,
    ) -> None:
        """Add what the neurons did at some positions, which count ``weights``, 0 or more.

        Args:
            h: What they did.
            weights: On the CPU.
            wanted: What the block is to say there; given for all positions or for none.
        """
        counted = weights > 0
        rows = h[counted.to(h.device)]
        said = None if wanted is None else wanted[counted.to(wanted.device)]
        weight = weights[counted]
        self.weight += float(weight.sum())
        step = max(1, AT_ONCE // self.neurons)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            self._add(rows[part], weight[part], None if said is None else said[part])

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
        wanted = None
        if self._energy is not None:
            crossed, said = (one.cpu() / self.weight for one in (self._crossed, self._said))
            wanted = Wanted(crossed, said, self._energy / self.weight)
        return NeuronMoments(second, mean, self.weight, wanted)

    def _add(self, h: Tensor, weights: Tensor, said: Tensor | None) -> None:
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
        if said is not None:
            wanted = said.to(device, torch.float64)
            self._crossed = self._crossed.to(device) + wanted.mT @ weighted
            self._said = self._said.to(device) + weights.to(device) @ wanted
            energy = weights.to(device) @ wanted.square().sum(dim=1)
            self._energy = (self._energy or 0.0) + float(energy)


def neuron_moments(
    model: nn.Module,
    sites: Sequence[FeedForwardSite],
    towers: Sequence[Tower],
    progress: Progress = ignore,
    *,
    known: Collection[str] = (),
    change: Callable[[FeedForwardSite], None] | None = None,
    cut: Callable[[], AbstractContextManager[None]] = nullcontext,
    anchored: bool = False,
) -> Iterator[tuple[FeedForwardSite, NeuronMoments]]:
    """Yield the moments of every block, in the order in which the blocks run.

    Only one block's moments are held here at a time. Beside them it takes the hidden states of
    every batch twice, and where moments are to be anchored four times.

    Args:
        model: A stock transformers model, dense, in evaluation mode; float32 weights are advised.
        sites: The blocks.
        towers: Those that hold the blocks; others are not run.
        progress: Receives one event a layer.
        known: Paths of blocks whose moments the caller has already, from a run that was cut short,
            and that are not summed again.
        change: Puts a block as it will be into the model, once it was yielded, or is known: those
            behind see what that leaves.
        cut: Runs the model with what else was changed before, where there is a ``change``.
        anchored: Run the model as it was, too, and say behind changes what blocks are to say.

    Raises:
        UsageError: No tower has a block, or the model has it restructured.
        SurgeryError: A block was not run, or computed NaN or infinity.
    """
    held = [_by_layer(model, sites, tower) for tower in towers]
    _check(sites, held)
    wanted = [
        [
            index
            for index, own in by_layer.items()
            if change is not None or any(site.path not in known for site in own)
        ]
        for by_layer in held
    ]
    total = sum(1 + max(indices) for indices in wanted if indices)
    done = 0
    progress(Event(STAGE, done, total))
    walked = [(tower, *one) for tower, *one in zip(towers, held, wanted, strict=True) if one[1]]
    with torch.no_grad():  # a decoder's input is what the whole encoder says
        wholes = [Replay.catch(tower.layers, tower.runs) for tower, *_ in walked if anchored]
    alike = cut is nullcontext
    for (tower, by_layer, indices), whole in zip_longest(walked, wholes):
        with torch.no_grad(), cut():
            shared = whole is not None and alike
            replay = whole.copy() if shared else Replay.catch(tower.layers, tower.runs)
        for index in range(1 + max(indices)):
            own = by_layer.get(index, ())
            watched = [site for site in own if site.path not in known]
            sums = {site.path: NeuronSums(site.neurons) for site in watched}
            said = {site.path: list[Tensor]() for site in watched}
            with torch.no_grad():
                if whole is not None and not alike:
                    with _keeping(model, watched, said):
                        whole.hidden = whole.step(index)
                with cut(), _listening(model, watched, sums, tower.weights, said):
                    after = replay.step(index)
                if whole is not None and alike:
                    whole.hidden = after
            done += 1
            progress(Event(STAGE, done, total))
            for site in watched:
                yield site, sums.pop(site.path).moments(site.path)
            if change is not None and own:
                alike = False
                for site in own:
                    change(site)
                with torch.no_grad(), cut():
                    after = replay.step(index)
            replay.hidden = after


@contextmanager
def _listening(
    model: nn.Module,
    sites: Sequence[FeedForwardSite],
    sums: Mapping[str, NeuronSums],
    weights: Sequence[Tensor],
    said: Mapping[str, Sequence[Tensor]],
) -> Iterator[None]:
    """Count what the blocks' down maps are given, batch by batch, and what they are to say."""

    def attach(site: FeedForwardSite) -> Any:
        batches = iter(zip_longest(weights, said[site.path]))

        def hear(_: nn.Module, args: tuple[Any, ...]) -> None:
            sums[site.path].add(args[0], *next(batches))

        return down_module(model, site).register_forward_pre_hook(hear)

    with _hooked([attach(site) for site in sites]):
        yield


@contextmanager
def _keeping(
    model: nn.Module, sites: Sequence[FeedForwardSite], said: Mapping[str, list[Tensor]]
) -> Iterator[None]:
    """Keep what the blocks say, batch by batch."""

    def attach(site: FeedForwardSite) -> Any:
        def keep(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            said[site.path].append(output)

        return down_module(model, site).register_forward_hook(keep)

    with _hooked([attach(site) for site in sites]):
        yield


@contextmanager
def _hooked(handles: Sequence[RemovableHandle]) -> Iterator[None]:
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
    model: nn.Module, sites: Sequence[FeedForwardSite], tower: Tower
) -> dict[int, list[FeedForwardSite]]:
    """Return the blocks by the layer of the tower that has them."""
    found: dict[int, list[FeedForwardSite]] = {}
    for index, layer in enumerate(tower.layers):
        modules = set(layer.modules())
        if own := [site for site in sites if down_module(model, site) in modules]:
            found[index] = own
    return found


def _check(
    sites: Sequence[FeedForwardSite], by_tower: Sequence[Mapping[int, Sequence[FeedForwardSite]]]
) -> None:
    found = {one.path for by_layer in by_tower for own in by_layer.values() for one in own}
    for site in sites:
        if site.path not in found:
            raise UsageError("No tower that is run holds a block.", where=site.path)
