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
from torch import Tensor, nn

from surgery.architectures.feed_forward import FeedForwardSite
from surgery.calibration.modules import find_module
from surgery.calibration.neuron_sums import NeuronSums
from surgery.calibration.replay import Replay
from surgery.calibration.towers import Tower
from surgery.errors import UsageError
from surgery.evaluation.layers import hooked
from surgery.events import Event, Progress, ignore
from surgery.methods.neurons import NeuronMoments

STAGE = "Watching neurons"


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
    held = [(tower, _by_layer(model, sites, tower)) for tower in towers]
    _check(sites, [by_layer for _, by_layer in held])
    walked: list[tuple[Tower, dict[int, list[FeedForwardSite]], int]] = []
    for tower, by_layer in held:
        wanted = [
            index
            for index, own in by_layer.items()
            if change is not None or any(site.path not in known for site in own)
        ]
        if wanted:
            walked.append((tower, by_layer, 1 + max(wanted)))
    done, total = 0, sum(depth for *_, depth in walked)
    progress(Event(STAGE, done, total))
    with torch.no_grad():  # a decoder's input is what the whole encoder says
        wholes = [
            Replay.catch(tower.layers, tower.runs) if anchored else None for tower, *_ in walked
        ]
    alike = cut is nullcontext
    for (tower, by_layer, depth), whole in zip(walked, wholes, strict=True):
        with torch.no_grad(), cut():
            shared = whole.copy() if whole is not None and alike else None
            replay = shared or Replay.catch(tower.layers, tower.runs)
        for index in range(depth):
            own = by_layer.get(index, ())
            watched = [site for site in own if site.path not in known]
            sums = {site.path: NeuronSums(site.neurons) for site in watched}
            said = {site.path: list[Tensor]() for site in watched}
            changes = change is not None and bool(own)
            with torch.no_grad():
                if whole is not None and not alike:
                    with _keeping(model, watched, said):
                        whole.hidden = whole.step(index)
                if watched or not changes or (whole is not None and alike):
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

    with hooked([attach(site) for site in sites]):
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

    with hooked([attach(site) for site in sites]):
        yield


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
