"""Which layers a model misses least: by what it does without them, or by how much they change.

*Trials* run the model without each layer in turn and look at its output; the layer that is missed
least goes, and the others are tried again without it. *Influence* looks at each layer alone, in one
pass: ``1 − E[cos(x, y)]``, x being what the layer is given at a position and y what it gives
(ShortGPT, arXiv 2403.03853, equation 1). It knows nothing of the layers behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from surgery.architectures.base import Scope
from surgery.architectures.dropping import Layer
from surgery.calibration.replay import HIDDEN
from surgery.calibration.towers import Tower
from surgery.calibration.without_layers import without_layers
from surgery.calibration.witness import Witness
from surgery.events import Event, Progress

Counts = Mapping[str | None, int]
"""How many layers go: of each tower, or of any (``None``)."""
Tried = dict[Layer, float]
"""Damage without each of some layers."""


def least_missed(
    witness: Witness,
    layers: Sequence[Layer],
    counts: Counts,
    progress: Progress,
    known: Callable[[str], float | None] = lambda _: None,
    keep: Callable[[str, float], None] = lambda _, __: None,
    sizes: Mapping[Layer, int] | None = None,
) -> Iterator[tuple[Layer, Tried]]:
    """Yield which layers go, in order, each with what was tried before it went.

    Greedy: no bound says how far it is from the best set. A layer is not tried again where the
    damage without it and fewer others is more than what was found already, since the damage without
    more of them would hardly be less.

    Args:
        witness: What the whole model says.
        layers: All of its layers.
        counts: How many go.
        progress: Receives one event a trial.
        known: Returns what an earlier run found, by the trial's name.
        keep: Called with what was found, as soon as it was.
        sizes: Parameters of each, to compare damages by; by default all are of one size.
    """
    names: list[Layer] = []
    least: Tried = {}
    total, done, before = sum(counts.values()) * len(layers), 0, 0.0

    def price(layer: Layer) -> float:
        """The least that it may cost now, by its size."""
        return (least.get(layer, 0.0) - before) / (1 if sizes is None else sizes[layer])

    for _ in range(sum(counts.values())):
        tried: Tried = {}
        best = inf
        for layer in sorted(open_to(layers, counts, names), key=price):
            if price(layer) > best:
                break  # so would be all that follow
            progress(Event("Trying without layers", done, total, f"without {layer}"))
            trial = ",".join(map(str, sorted([*names, layer])))
            damage = known(trial)
            if damage is None:
                with without_layers(witness.model, [*names, layer]):
                    damage = witness.damage()
                keep(trial, damage)
            tried[layer] = damage
            least[layer] = min(inf, damage)  # NaN is the worst there is
            best = min(best, price(layer))
            done += 1
        if not tried:
            return
        names.append(min(tried, key=lambda each: (price(each), each)))
        before = least[names[-1]]
        yield names[-1], tried
    progress(Event("Trying without layers", total, total))


def open_to(layers: Sequence[Layer], counts: Counts, gone: Sequence[Layer]) -> list[Layer]:
    """Return which layers may go next: their tower is to lose more, and keeps one at least."""
    found = []
    for layer in layers:
        own = sum(one.scope == layer.scope for one in gone)
        most = counts.get(None, counts.get(layer.scope, 0))
        last = sum(one.scope == layer.scope for one in layers) - own == 1
        if layer not in gone and own < most and not last:
            found.append(layer)
    return found


@torch.no_grad()
def influences(towers: Sequence[Tower], names: Sequence[Scope], progress: Progress) -> Tried:
    """Return the block influence of every layer, 0 to 2; a position counts what its weight says.

    Args:
        towers: Those whose layers are asked about, with their input.
        names: What their layers are called.
        progress: Receives one event a batch.
    """
    total = sum(len(tower.runs) for tower in towers)
    found: Tried = {}
    done = 0
    for tower, scope in zip(towers, names, strict=True):
        sums = [0.0] * len(tower.layers)
        for run, weights in zip(tower.runs, tower.weights, strict=True):
            progress(Event("Watching layers", done, total))
            with ExitStack() as hooks:
                for number, layer in enumerate(tower.layers):
                    hook = layer.register_forward_hook(
                        _listener(sums, number, weights), with_kwargs=True
                    )
                    hooks.callback(hook.remove)
                run()
            done += 1
        whole = sum(float(each.sum()) for each in tower.weights)
        found |= {Layer(scope, number): 1 - each / whole for number, each in enumerate(sums)}
    progress(Event("Watching layers", total, total))
    return found


def _listener(sums: list[float], number: int, weights: Tensor) -> Callable[..., None]:
    def hear(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any], output: Any) -> None:
        before = (given[HIDDEN] if HIDDEN in given else args[0]).double()
        after = (output if isinstance(output, Tensor) else output[0]).double()
        cosines = torch.cosine_similarity(before, after, dim=-1)
        sums[number] += float((cosines.cpu() * weights).sum())

    return hear
