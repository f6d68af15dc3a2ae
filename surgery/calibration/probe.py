"""What cutting a pair of a block does to the model's output, without running the model.

Each block is run alone, on the hidden states that the whole model gave it, with some of its vectors
gone. What that changes in its output counts as the model's output minds it
(:mod:`.output_metric`), to first order. So a trial costs one attention block instead of a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from surgery.architectures.base import AttentionSite
from surgery.calibration.cut import SiteCut, cut_heads, kept_product
from surgery.calibration.modules import AttentionModules, blocks_within
from surgery.calibration.replay import Replay
from surgery.calibration.sensitivity import TRIALS, Trials, Tried, least_energy_ranks
from surgery.calibration.towers import Tower
from surgery.evaluation.layers import hooked
from surgery.events import Event, Progress, ignore
from surgery.methods import SiteDecomposition
from surgery.methods.units import dropped_share

STAGE = "Probing heads"


def probe_sensitivities(
    model: nn.Module,
    towers: Sequence[Tower],
    sites: Sequence[AttentionSite],
    decompositions: Mapping[str, SiteDecomposition],
    metrics: Mapping[str, Float64[Tensor, "w w"]],
    progress: Progress = ignore,
) -> Trials:
    """Return for every pair what :mod:`.sensitivity` measures, to first order.

    Args:
        model: A stock model, dense, in evaluation mode.
        towers: Those that hold the blocks, with the rows to try on.
        sites: The blocks.
        decompositions: How each would be cut, by its path.
        metrics: What the output minds of each, by its path.
        progress: Receives one event a layer.
    """
    trials: Trials = {}
    total, done = sum(len(tower.layers) for tower in towers), 0
    with torch.no_grad():
        for tower in towers:
            replay = Replay.catch(tower.layers, tower.runs)
            for index, layer in enumerate(tower.layers):
                progress(Event(STAGE, done, total))
                inside = blocks_within(model, layer, sites)
                own = [AttentionModules(model, site) for site in inside]
                with _catching(own) as caught:
                    replay.hidden = replay.step(index)
                for block in own:
                    path = block.site.path
                    calls = caught[path]
                    trials |= _probe(calls, block, decompositions[path], metrics[path], tower)
                done += 1
    progress(Event(STAGE, total, total))
    return trials


@dataclass
class _Calls:
    """What one block is given for every batch, and what its output projection says."""

    given: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    said: list[Tensor] = field(default_factory=list)


def _probe(
    calls: _Calls,
    block: AttentionModules,
    decomposition: SiteDecomposition,
    metric: Tensor,
    tower: Tower,
) -> Trials:
    site, found = block.site, Trials()
    model = block.model
    for pair, part in decomposition.parts.items():
        tried: Tried = []
        for fraction in (*TRIALS, 1.0):
            if fraction == 1.0 and any(dropped for dropped, _ in tried):
                break  # else a few vectors hold all of the energy
            ranks = least_energy_ranks(part, fraction)
            cut = SiteCut.of({pair: kept_product(part, ranks)})
            with cut_heads(model, [site], {site.path: cut}):
                damage = _damage(calls, block, metric, tower)
            tried.append((dropped_share(part.spectrum, ranks), damage))
        found[site.path, pair] = tried
    return found


def _damage(calls: _Calls, block: AttentionModules, metric: Tensor, tower: Tower) -> float:
    """Return the mean of ``Δᵀ A Δ`` over positions, with the block as it is now."""
    said, total, count = list[Tensor](), 0.0, 0.0
    with block.projections["o"].register_forward_hook(lambda _, __, out: said.append(out)):
        for (args, given), before, weights in zip(
            calls.given, calls.said, tower.weights, strict=True
        ):
            block.attention(*args, **given)
            counted = weights > 0
            error = (said.pop()[counted] - before[counted]).double().cpu()
            each = ((error @ metric) * error).sum(dim=1)
            total += float(each @ weights[counted])
            count += float(weights.sum())
    return max(total / max(count, 1.0), 0.0)


@contextmanager
def _catching(blocks: Sequence[AttentionModules]) -> Iterator[dict[str, _Calls]]:
    caught = {block.site.path: _Calls() for block in blocks}

    def attach(block: AttentionModules) -> list[Any]:
        calls = caught[block.site.path]

        def given(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            calls.given.append((args, named))

        return [
            block.attention.register_forward_pre_hook(given, with_kwargs=True),
            block.projections["o"].register_forward_hook(lambda _, __, out: calls.said.append(out)),
        ]

    with hooked([handle for block in blocks for handle in attach(block)]):
        yield caught
