"""Behind blocks that were changed, moments say what the original's block said on the same input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pytest
import torch

from surgery.architectures import FeedForwardSite
from surgery.calibration.data import CalibrationData
from surgery.calibration.feed_forward import neuron_moments
from surgery.calibration.towers import Tower, speech_towers, text_tower
from surgery.engine.compress.in_place import narrow_block
from surgery.evaluation.audio import Utterance
from surgery.methods.neuron_refit import NarrowDown
from surgery.methods.neurons import NeuronMoments
from tests.architectures.test_feed_forward import sites_of
from tests.calibration.oracle import Letters, difference
from tests.calibration.test_collect import TEXTS, Processor, recordings, speaker, text  # noqa: F401
from tests.models import CAPPED, TINY, tiny_model

EXACT = 1e-12  # float64 on both sides


def down_of(model: Any, site: FeedForwardSite) -> Any:
    return model.get_submodule(site.down.weight.removesuffix(".weight"))


def halve(model: Any, site: FeedForwardSite) -> None:
    """Leave every other neuron of a block, and nothing fitted."""
    weight = down_of(model, site).weight.detach()
    kept = torch.arange(0, site.neurons, 2)
    down = (weight.T if site.down.transposed else weight)[:, kept]
    narrow_block(model, site, NarrowDown(kept, down, None))


def louder(model: Any, site: FeedForwardSite) -> Callable[[], Any]:
    """Something else that was changed: the block hears twice as much."""
    module = model.get_submodule(site.up.weight.removesuffix(".weight"))

    @contextmanager
    def cut() -> Iterator[None]:
        handle = module.register_forward_pre_hook(lambda _, args: (2 * args[0], *args[1:]))
        yield
        handle.remove()

    return cut


def whole_passes(model: Any, site: FeedForwardSite, towers: list[Tower]) -> list[Any]:
    """What a block's neurons do, what it says and what positions count, batch by batch."""
    seen: list[Any] = []
    hook = lambda _, args, out: seen.append((args[0], out))  # noqa: E731
    handle = down_of(model, site).register_forward_hook(hook)
    found = []
    for tower in towers:
        for run, weights in zip(tower.runs, tower.weights, strict=True):
            seen.clear()
            with torch.no_grad():
                run()
            if site.scope == tower.name or len(towers) == 1:
                found.append((*seen[-1], weights))
    handle.remove()
    return found


def towers_of(model: Any, clips: tuple[Utterance, ...]) -> list[Tower]:
    if model.config.model_type != "whisper":
        batch = 1 if model.config.model_type in CAPPED else 2
        return [text_tower(model, text(*TEXTS), Letters(), "decoder", batch=batch)]
    data = CalibrationData("clips", "audio", recordings=clips)
    return speech_towers(model, data, Processor(), decoder=True, padding_weight=0.25, batch=2)


@pytest.mark.parametrize("otherwise", [False, True], ids=["blocks", "blocks and more"])
@pytest.mark.parametrize("name", TINY)
def test_what_a_block_is_to_say_is_what_the_original_said(
    name: str,
    otherwise: bool,
    recordings: tuple[Utterance, ...],  # noqa: F811
) -> None:
    model = speaker() if name == "whisper" else tiny_model(name, dtype=torch.float64)
    model = model.double()
    original, changed = deepcopy(model), deepcopy(model)
    sites = sites_of(model)
    there, here, own = (towers_of(each, recordings) for each in (original, changed, model))
    cut = louder(model, sites[0]) if otherwise else None
    walk = neuron_moments(
        model,
        sites,
        own,
        change=lambda site: halve(model, site),
        anchored=True,
        **({} if cut is None else {"cut": cut}),
    )
    with louder(changed, sites[0])() if otherwise else torch.no_grad():
        for at, (site, moments) in enumerate(walk):
            assert site == sites[at]
            check(moments, whole_passes(changed, site, here), whole_passes(original, site, there))
            assert (moments.wanted is None) == (at == 0 and not otherwise)
            halve(changed, site)


def check(moments: NeuronMoments, here: list[Any], there: list[Any]) -> None:
    h, y, w = (
        torch.cat([each.flatten(0, 1) for each in some])
        for some in (
            [one[0] for one in here],
            [one[1] for one in there],
            [one[2][..., None] for one in here],
        )
    )
    counted = w[:, 0] > 0
    h, y, w = h[counted], y[counted], w[counted]
    total = w.sum()
    assert difference(moments.second, (h * w).T @ h / total) < EXACT
    if (wanted := moments.wanted) is not None:
        assert difference(wanted.crossed, (y * w).T @ h / total) < EXACT
        assert difference(wanted.mean, (y * w).sum(0) / total) < EXACT
        assert wanted.energy == pytest.approx(float((y.square() * w).sum() / total), rel=EXACT)


def test_blocks_that_are_known_are_changed_and_not_summed_again() -> None:
    def walked(known: set[str]) -> dict[str, NeuronMoments]:
        model = tiny_model("llama", dtype=torch.float64)
        tower = text_tower(model, text(*TEXTS), Letters(), "decoder")
        found = neuron_moments(
            model,
            sites_of(model),
            [tower],
            known=known,
            change=lambda site: halve(model, site),
            anchored=True,
        )
        return {site.path: moments for site, moments in found}

    every = walked(set())
    first, last = every
    rest = walked({first})
    assert list(rest) == [last]
    assert torch.equal(rest[last].second, every[last].second)
    one, other = rest[last].wanted, every[last].wanted
    assert one is not None and other is not None
    assert torch.equal(one.crossed, other.crossed)
