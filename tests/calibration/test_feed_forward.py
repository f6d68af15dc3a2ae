"""Moments of neurons equal a loop over positions, from the weights, in every family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.activations import ACT2FN

from surgery.architectures import FeedForwardSite
from surgery.calibration import neuron_sums
from surgery.calibration.data import CalibrationData
from surgery.calibration.feed_forward import neuron_moments
from surgery.calibration.neuron_sums import NeuronSums
from surgery.calibration.towers import Tower, speech_towers, text_tower
from surgery.errors import SurgeryError, UsageError
from surgery.evaluation.audio import Utterance
from surgery.events import Event
from surgery.methods.neurons import NeuronMoments
from tests.architectures.test_feed_forward import sites_of
from tests.calibration.oracle import Letters, difference
from tests.calibration.test_collect import (  # noqa: F401
    TEXTS,
    Processor,
    recordings,
    speaker,
    spoken,
    text,
    windows,
)
from tests.models import CAPPED, TINY, tiny_model

EXACT = 1e-12  # float64 on both sides
TEXTUAL = [name for name in TINY if name != "whisper"]


class Naive:
    """Weighted sums of one block, from what enters it and its weights, a position at a time."""

    def __init__(self, model: Any, site: FeedForwardSite) -> None:
        self.site, self.state = site, model.state_dict()
        config = model.config
        name = next(
            getattr(config, key)
            for key in ("activation_function", "hidden_act", "hidden_activation")
            if hasattr(config, key)
        )
        self.act = ACT2FN[name]
        self.C: Any = 0.0
        self.mu: Any = 0.0
        self.weight = 0.0

    def map(self, role: str, x: Tensor) -> Tensor:
        stored = self.site.projections()[role]  # type: ignore[index]
        weight = self.state[stored.weight].double()
        if self.site.gate and self.site.gate.weight == stored.weight == self.site.up.weight:
            weight = weight.chunk(2)[role == "up"]
        y = (weight.T if stored.transposed else weight) @ x
        return y if stored.bias is None else y + self.state[stored.bias].double()

    def add(self, rows: Tensor, weights: Sequence[float]) -> None:
        for x, w in zip(rows.double(), weights, strict=True):
            up = self.map("up", x)
            h = self.act(self.map("gate", x)) * up if self.site.gate else self.act(up)
            self.C = self.C + w * torch.outer(h, h)
            self.mu = self.mu + w * h
            self.weight += w


def entering(model: Any, sites: Sequence[FeedForwardSite], run: Any) -> dict[str, Tensor]:
    """What enters every block in one whole pass over one sequence, (positions, width)."""
    seen: dict[str, Tensor] = {}

    def attach(site: FeedForwardSite) -> Any:
        module = model.get_submodule(site.up.weight.removesuffix(".weight"))
        return module.register_forward_pre_hook(
            lambda _, args: seen.__setitem__(site.path, args[0].squeeze(0))
        )

    handles = [attach(site) for site in sites]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return seen


def assert_equal(
    found: dict[str, NeuronMoments], expected: dict[str, Naive], bound: float = EXACT
) -> None:
    assert list(found) == list(expected)
    for path, naive in expected.items():
        moments = found[path]
        assert difference(moments.second, naive.C / naive.weight) < bound, path
        assert difference(moments.mean, naive.mu / naive.weight) < bound, path
        assert moments.weight == pytest.approx(naive.weight, rel=1e-12)
        assert torch.equal(moments.second, moments.second.T)


def collected(model: Any, towers: Sequence[Tower], **options: Any) -> dict[str, NeuronMoments]:
    found = neuron_moments(model, sites_of(model), towers, **options)
    return {site.path: moments for site, moments in found}


@pytest.mark.parametrize("name", TEXTUAL)
def test_a_language_models_neurons_are_those_of_its_weights(name: str) -> None:
    model = tiny_model(name, dtype=torch.float64)
    sites = sites_of(model)
    expected = {site.path: Naive(model, site) for site in sites}
    for document in TEXTS:
        tokens = torch.tensor([Letters()(document)["input_ids"]])
        seen = entering(model, sites, lambda tokens=tokens: model(tokens))
        for site in sites:
            expected[site.path].add(seen[site.path], [1.0] * tokens.shape[1])
    # Three texts of unequal length at once: two are padded, which must change nothing.
    for batch in (1, 1 if name in CAPPED else 3):
        tower = text_tower(model, text(*TEXTS), Letters(), sites[0].scope, batch=batch)
        assert_equal(collected(model, [tower]), expected)


def test_a_long_document_counts_every_position_once() -> None:
    model = tiny_model("llama", dtype=torch.float64)
    sites = sites_of(model)
    tokens = Letters()("abcdefghijklmnopq")["input_ids"]  # 18 tokens in windows of 8
    expected = {site.path: Naive(model, site) for site in sites}
    for begin, end, first in ((0, 8, 0), (4, 12, 4), (8, 16, 4), (12, 18, 4)):
        part = torch.tensor([tokens[begin:end]])
        seen = entering(model, sites, lambda part=part: model(part))
        for site in sites:
            once = [float(at >= first) for at in range(end - begin)]
            expected[site.path].add(seen[site.path], once)
    tower = text_tower(model, text("abcdefghijklmnopq"), Letters(), "decoder", context=8)
    found = collected(model, [tower])
    assert_equal(found, expected)
    assert found[sites[0].path].weight == 18


@pytest.mark.parametrize("padding_weight", [0.0, 0.25])
@pytest.mark.parametrize("batch", [1, 3])
def test_whispers_neurons_are_those_of_its_weights(
    recordings: tuple[Utterance, ...],  # noqa: F811
    padding_weight: float,
    batch: int,
) -> None:
    model, processor = speaker(), Processor()
    sites = sites_of(model)
    expected = {site.path: Naive(model, site) for site in sites}
    for audio, words in windows(recordings):
        features = processor.feature_extractor(
            audio, sampling_rate=16_000, return_tensors="pt"
        ).input_features.double()
        tokens = spoken(model, features, words, audio.size / 16_000)
        given = {"decoder_input_ids": torch.tensor([tokens]), "use_cache": False}
        seen = entering(model, sites, lambda f=features, g=given: model(f, **g))
        filled = int(np.ceil(audio.size / 800))  # 16,000 samples are 20 positions
        frames = [1.0] * filled + [padding_weight] * (20 - filled)
        for site in sites:
            weights = frames if site.scope == "encoder" else [1.0] * len(tokens)
            expected[site.path].add(seen[site.path], weights)
    data = CalibrationData("clips", "audio", recordings=recordings)
    towers = speech_towers(
        model, data, processor, decoder=True, padding_weight=padding_weight, batch=batch
    )
    assert_equal(collected(model, towers), expected)
    half = speech_towers(model, data, processor, decoder=False, padding_weight=padding_weight)
    encoder = [site for site in sites if site.scope == "encoder"]
    own = {site.path: moments for site, moments in neuron_moments(model, encoder, half)}
    assert_equal(own, {site.path: expected[site.path] for site in encoder})


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_float32_activations_lose_no_more_than_their_own_rounding(name: str) -> None:
    exact, single = tiny_model(name, dtype=torch.float64), tiny_model(name)
    expected, found = (
        collected(model, [text_tower(model, text(*TEXTS), Letters(), "decoder")])
        for model in (exact, single)
    )
    for path, moments in expected.items():
        assert found[path].second.dtype == torch.float64
        # Some twenty chained operations on vectors of 48, squared at the end.
        bound = 2 * 20 * 48 * torch.finfo(torch.float32).eps
        assert difference(found[path].second, moments.second) < bound


def test_sums_in_pieces_are_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    h = torch.randn(3, 11, 17, generator=draw, dtype=torch.float64)
    weights = torch.rand(3, 11, generator=draw, dtype=torch.float64)
    weights[0, 2:5] = 0.0
    h[0, 3] = torch.nan  # padding may hold anything
    monkeypatch.setattr(neuron_sums, "COLUMNS", 5)
    monkeypatch.setattr(neuron_sums, "AT_ONCE", 17 * 4)
    sums = NeuronSums(17)
    sums.add(h[:2], weights[:2])
    sums.add(h[2:], weights[2:])
    found = sums.moments("block")
    rows, w = h[weights > 0], weights[weights > 0]
    assert difference(found.second, (rows * w[:, None]).T @ rows / w.sum()) < EXACT
    assert difference(found.mean, w @ rows / w.sum()) < EXACT
    assert torch.equal(found.second, found.second.T)


def test_one_layers_moments_are_held_at_a_time() -> None:
    """The next layer is run only when the one before has been taken."""
    model = tiny_model("llama")
    events: list[Event] = []
    tower = text_tower(model, text(*TEXTS), Letters(), "decoder")
    found = neuron_moments(model, sites_of(model), [tower], events.append)
    assert not events
    for done, (site, _) in enumerate(found, start=1):
        assert site.layer == done - 1
        assert [(event.done, event.total) for event in events][-1] == (done, 2)
        assert torch.is_grad_enabled()
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_what_is_known_is_not_summed_again_and_later_layers_see_the_same() -> None:
    model = tiny_model("gpt2")
    sites = sites_of(model)
    tower = text_tower(model, text(*TEXTS), Letters(), "decoder")
    whole = collected(model, [tower])
    rest = collected(model, [tower], known={sites[0].path})
    assert list(rest) == [sites[1].path]
    assert torch.equal(rest[sites[1].path].second, whole[sites[1].path].second)
    assert collected(model, [tower], known={site.path for site in sites}) == {}


def test_moments_taken_of_nothing_are_an_error() -> None:
    model = tiny_model("llama")
    tower = text_tower(model, text(*TEXTS), Letters(), "decoder")
    silent = Tower("decoder", tower.layers, tower.runs, [w * 0 for w in tower.weights])
    with pytest.raises(SurgeryError, match="no input"):
        collected(model, [silent])
    with pytest.raises(UsageError, match="No tower"):
        collected(model, [])
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 3] = torch.nan
    with pytest.raises(SurgeryError, match="NaN or infinity"):
        collected(model, [tower])


def test_a_narrowed_block_is_refused() -> None:
    model = tiny_model("llama")
    sites, tower = sites_of(model), text_tower(model, text(*TEXTS), Letters(), "decoder")
    model.model.layers[0].mlp.down_proj = torch.nn.Linear(7, 32, bias=False)
    with pytest.raises(UsageError, match="restructured"):
        list(neuron_moments(model, sites, [tower]))


def test_a_model_refitted_by_its_moments_computes_what_it_did(tmp_path: Path) -> None:
    """End to end on one block: copies of neurons are taken out, and nothing changes."""
    from surgery.methods.neuron_refit import narrow
    from surgery.methods.neurons import eliminate

    model: Any = tiny_model("gpt2", dtype=torch.float64)
    mlp = model.transformer.h[1].mlp
    with torch.no_grad():
        mlp.c_fc.weight[:, 64:] = mlp.c_fc.weight[:, :64]
        mlp.c_fc.bias[64:] = mlp.c_fc.bias[:64]
    tokens = torch.tensor([Letters()(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        before = model(tokens).logits
    site = sites_of(model)[1]
    tower = text_tower(model, text(*TEXTS), Letters(), "decoder")
    ((_, moments),) = neuron_moments(model, [site], [tower])
    down, bias = mlp.c_proj.weight.detach().T, mlp.c_proj.bias.detach()
    found = eliminate(down, moments, biased=True, ridge=1e-9)
    result = narrow(down, bias, moments, found.kept(64), ridge=1e-9)
    assert len({i % 64 for i in result.kept.tolist()}) > 30  # of few rows, more than copies go
    with torch.no_grad():
        mlp.c_fc.weight = torch.nn.Parameter(mlp.c_fc.weight[:, result.kept])
        mlp.c_fc.bias = torch.nn.Parameter(mlp.c_fc.bias[result.kept])
        mlp.c_fc.nf = 64
        mlp.c_proj.weight = torch.nn.Parameter(result.down.T)
        mlp.c_proj.bias = torch.nn.Parameter(result.bias)
        after = model(tokens).logits
    assert difference(after, before) < 1e-6
