"""What a cut does to a model's output, as one number, against loops over positions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoProcessor, WhisperForConditionalGeneration

from surgery.architectures import AttentionSite
from surgery.calibration.collect import collect
from surgery.calibration.cut import SiteCut, cut_heads, kept_product
from surgery.calibration.data import CalibrationData, open_data
from surgery.calibration.sensitivity import (
    TRIALS,
    dropped_share,
    least_energy_ranks,
    measure_sensitivities,
)
from surgery.calibration.witness import Witness, inputs_of
from surgery.evaluation.audio import SpeechFolder
from surgery.evaluation.rows import Document
from surgery.events import Event
from surgery.methods import DamageCurve, PairDecomposition, SiteDecomposition, activation_aware
from surgery.micro import assets
from surgery.stored.pack import read_site
from tests.calibration.oracle import Letters, sites_of
from tests.models import tiny_model

TEXTS = ("once upon a time", "a b", "the end of it all")
# The original's outputs are float32, and Whisper's round otherwise alone than in a batch: both some
# 1e-6 of values whose differences, squared, are damages of 1e-5 and more.
LOOSE = 1e-3


def text(*documents: str) -> CalibrationData:
    return CalibrationData("stories", "text", documents=tuple(map(Document, documents)))


def kl(before: Tensor, after: Tensor) -> float:
    """Sum over positions and tokens of p log(p / q)."""
    total = 0.0
    for x, y in zip(before.double().tolist(), after.double().tolist(), strict=True):
        a, b = (math.log(sum(math.exp(each - max(row)) for each in row)) for row in (x, y))
        for u, v in zip(x, y, strict=True):
            log_p, log_q = u - max(x) - a, v - max(y) - b
            total += math.exp(log_p) * (log_p - log_q)
    return total


def square_error(before: Tensor, after: Tensor) -> float:
    before, after = before.double(), after.double()
    return float(((after - before) ** 2).sum() / ((before - before.mean(dim=0)) ** 2).sum())


@contextmanager
def shaken(model: Any, by: float, seed: int = 0) -> Iterator[None]:
    """Move one block's queries a little."""
    site = sites_of(model)[-1]
    d = site.head_dim
    draw = torch.Generator().manual_seed(seed)
    moved = torch.randn(site.kv_heads, d, d, generator=draw, dtype=torch.float64)
    cut = SiteCut(qk=torch.eye(d, dtype=torch.float64) + by * moved)
    with cut_heads(model, [site], {site.path: cut}):
        yield


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("gpt2", "next token"),
        ("qwen2", "next token"),
        ("gpt2-unprefixed", "last hidden state"),
        ("bert", "last hidden state"),
        ("bert-unprefixed", "last hidden state"),
    ],
)
def test_a_text_models_damage_is_that_of_its_positions_one_by_one(name: str, output: str) -> None:
    model: Any = tiny_model(name, dtype=torch.float64)
    seen = Witness(inputs_of(model, sites_of(model), text(*TEXTS), Letters(), batch=2))
    assert seen.output == output

    def rows() -> Tensor:
        with torch.no_grad():
            each = [
                model(torch.tensor([Letters()(document)["input_ids"]]), output_hidden_states=True)
                for document in TEXTS
            ]
        if output == "next token":
            return torch.cat([one.logits[0] for one in each])
        return torch.cat([one.hidden_states[-1][0] for one in each])

    before = rows()
    with shaken(model, 0.3):
        found, after = seen.damage(), rows()
    expected = (
        kl(before, after) / len(before) if output == "next token" else square_error(before, after)
    )
    assert expected > 1e-5
    assert found == pytest.approx(expected, rel=LOOSE)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "gpt2-unprefixed"])
def test_where_nothing_was_cut_there_is_no_damage(name: str) -> None:
    model = tiny_model(name)
    seen = Witness(inputs_of(model, sites_of(model), text(*TEXTS), Letters(), batch=2))
    assert seen.damage() == 0.0
    with shaken(model, 0.3):
        assert seen.damage() > 1e-5
    assert seen.damage() == 0.0


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_a_model_that_breaks_is_not_unharmed(name: str) -> None:
    model = tiny_model(name)
    seen = Witness(inputs_of(model, sites_of(model), text(*TEXTS), Letters()))
    with shaken(model, math.nan):
        assert math.isnan(seen.damage())


def test_damage_grows_as_the_square_of_a_small_change() -> None:
    for name in ("gpt2", "bert"):
        model = tiny_model(name, dtype=torch.float64)
        seen = Witness(inputs_of(model, sites_of(model), text(*TEXTS), Letters()))
        damages = []
        for by in (1e-3, 2e-3):
            with shaken(model, by):
                damages.append(seen.damage())
        assert damages[1] / damages[0] == pytest.approx(4, rel=0.1)


def test_a_position_in_two_windows_counts_once() -> None:
    """A document longer than the model's context of 64 is read in windows that overlap."""
    model = tiny_model("gpt2", dtype=torch.float64)
    seen = inputs_of(model, sites_of(model), text("a long tale " * 9), Letters())
    assert sum(len(rows) for rows in seen.rows()) == 1 + 9 * 12


def test_of_many_documents_some_of_every_length_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("surgery.calibration.witness.TOKENS", 60)
    model = tiny_model("gpt2")
    seen = inputs_of(model, sites_of(model), text(*("a" * n for n in range(1, 40))), Letters())
    # Of 2 to 40 tokens, 21 on average: two documents, at a quarter and three quarters.
    assert [len(rows) for rows in seen.rows()] == [11 + 31]


Micro = tuple[Any, Any, CalibrationData]


@pytest.fixture(scope="module")
def micro() -> Micro:
    model = WhisperForConditionalGeneration.from_pretrained(assets.DIRECTORY, dtype=torch.float32)
    data = open_data(assets.DIRECTORY / "test", "audio", 3)
    return model.eval(), AutoProcessor.from_pretrained(assets.DIRECTORY), data


def encoder(sites: tuple[AttentionSite, ...]) -> list[AttentionSite]:
    return [site for site in sites if site.scope == "encoder"]


@pytest.fixture(scope="module")
def heard(micro: Micro) -> Witness:
    model, processor, data = micro
    return Witness(inputs_of(model, encoder(sites_of(model)), data, processor, batch=2))


@pytest.fixture(scope="module")
def decomposed(micro: Micro) -> dict[str, SiteDecomposition]:
    model, processor, data = micro
    sites, state = sites_of(model), model.state_dict()
    moments = collect(model, sites, data, processor, padding_weight=0.1)
    return {
        site.path: activation_aware(
            read_site(state.__getitem__, site), moments[site.path], qk=True, vo=True
        )
        for site in sites
    }


def pruned_to(part: PairDecomposition, rank: int) -> Tensor:
    return kept_product(part, [rank] * part.spectrum.shape[0])


def test_an_encoders_damage_is_over_frames_of_sound(
    micro: Micro, heard: Witness, decomposed: dict[str, SiteDecomposition]
) -> None:
    model, processor, data = micro
    assert heard.output == "encoder output" and heard.damage() == 0.0
    site = sites_of(model)[0]
    part = decomposed[site.path].vo
    assert part is not None

    def frames() -> Tensor:
        rows = []
        for utterance in data.recordings:
            (audio,) = SpeechFolder.open(utterance.path).audio()
            features = processor(audio, sampling_rate=16_000, return_tensors="pt").input_features
            with torch.no_grad():
                states = model.get_encoder()(features).last_hidden_state[0]
            window = processor.feature_extractor.n_samples
            rows.append(states[: int(np.ceil(audio.size * len(states) / window))])
        return torch.cat(rows)

    before = frames()
    with cut_heads(model, [site], {site.path: SiteCut(vo=pruned_to(part, 6))}):
        found, after = heard.damage(), frames()
    expected = square_error(before, after)
    assert expected > 1e-5
    assert found == pytest.approx(expected, rel=LOOSE)
    with shaken(model, 0.3):
        assert heard.damage() == 0.0, "the decoder is not part of it"


def test_a_decoders_damage_is_over_the_tokens_that_are_said(
    micro: Micro, decomposed: dict[str, SiteDecomposition]
) -> None:
    model, processor, data = micro
    sites = sites_of(model)
    seen = Witness(inputs_of(model, sites, data, processor, batch=2))
    assert seen.output == "next token" and seen.damage() == 0.0
    site = next(site for site in sites if site.scope == "cross")
    part = decomposed[site.path].qk
    assert part is not None
    generation = model.generation_config
    start = [generation.decoder_start_token_id, generation.no_timestamps_token_id]

    def logits() -> Tensor:
        rows = []
        for utterance in data.recordings:
            (audio,) = SpeechFolder.open(utterance.path).audio()
            features = processor(audio, sampling_rate=16_000, return_tensors="pt").input_features
            words = processor.tokenizer(f" {utterance.words}", add_special_tokens=False).input_ids
            with torch.no_grad():
                tokens = torch.tensor([start + words])
                rows.append(model(features, decoder_input_ids=tokens).logits[0])
        return torch.cat(rows)

    before = logits()
    with cut_heads(model, [site], {site.path: SiteCut(qk=pruned_to(part, 4))}):
        found, after = seen.damage(), logits()
    expected = kl(before, after) / len(before)
    assert expected > 1e-5
    assert found == pytest.approx(expected, rel=LOOSE)


def test_every_pair_is_tried_alone_and_deeper_cuts_damage_more(
    micro: Micro, heard: Witness, decomposed: dict[str, SiteDecomposition]
) -> None:
    model = micro[0]
    sites = encoder(sites_of(model))
    events: list[Event] = []
    trials = measure_sensitivities(heard, sites, decomposed, events.append)
    assert heard.damage() == 0.0, "the model is as it was"
    assert list(trials) == [(site.path, pair) for site in sites for pair in ("qk", "vo")]
    assert [event.done for event in events] == list(range(2 * len(sites) + 1))
    assert {event.total for event in events} == {2 * len(sites)}
    for tried in trials.values():
        shares, damages = zip(*tried, strict=True)
        assert len(tried) == len(TRIALS) and 0 < shares[0] < shares[1] < shares[2] < 1
        assert 0 < damages[0] < damages[1] < damages[2]
        curve = DamageCurve.measured(tried)
        assert curve is not None and curve.damage == damages
    # One of them, by hand.
    site = sites[1]
    part = decomposed[site.path].vo
    assert part is not None
    ranks = least_energy_ranks(part, TRIALS[1])
    with cut_heads(model, [site], {site.path: SiteCut(vo=kept_product(part, ranks))}):
        expected = dropped_share(part.spectrum, ranks), heard.damage()
    assert trials[site.path, "vo"][1] == expected


def test_where_a_few_vectors_hold_all_energy_one_trial_goes_deeper(
    micro: Micro, heard: Witness, decomposed: dict[str, SiteDecomposition]
) -> None:
    """Three quarters of the vectors are worth nothing: cutting them tells nothing of the rest."""
    site = sites_of(micro[0])[0]
    part = decomposed[site.path].vo
    assert part is not None
    spectrum = part.spectrum.clone()
    spectrum[:, 8:] = 0.0
    few = {site.path: SiteDecomposition(None, replace(part, spectrum=spectrum))}
    (tried,) = measure_sensitivities(heard, [site], few, lambda _: None).values()
    assert [dropped for dropped, _ in tried[:3]] == [0.0] * 3
    assert tried[3][0] > 0 and tried[3][1] > tried[2][1]


def test_pairs_that_stay_as_they_are_are_not_tried(heard: Witness, micro: Micro) -> None:
    sites = encoder(sites_of(micro[0]))
    nothing = {site.path: SiteDecomposition(None, None) for site in sites}
    assert measure_sensitivities(heard, sites, nothing, lambda _: None) == {}


def part_of(spectrum: Tensor, step: int) -> PairDecomposition:
    kv, d = spectrum.shape
    identity = torch.eye(d, dtype=torch.float64).expand(kv, d, d)
    norm = spectrum.norm(dim=1)
    if step == 1:
        return PairDecomposition(spectrum, norm, identity, identity)
    order = torch.arange(d).reshape(2, -1).T.flatten().expand(kv, d)
    return PairDecomposition(spectrum, norm, order=order, step=step)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    step=st.sampled_from([1, 2]),
    fraction=st.floats(0, 1),
    zeros=st.booleans(),
)
def test_trials_drop_the_vectors_of_least_energy(
    seed: int, shape: tuple[int, int], step: int, fraction: float, zeros: bool
) -> None:
    heads, count = shape
    draw = torch.Generator().manual_seed(seed)
    values = torch.rand(heads, count, generator=draw, dtype=torch.float64)
    if zeros:
        values[0] = 0.0
    values = values.sort(dim=1, descending=True).values
    part = part_of(values.repeat_interleave(step, dim=1), step)
    ranks = least_energy_ranks(part, fraction)

    kept = [count] * heads
    for _ in range(int(fraction * heads * count)):
        able = [h for h in range(heads) if kept[h] > 0]
        least = min(able, key=lambda h: float(values[h, kept[h] - 1]))
        kept[least] -= 1
    assert ranks == [step * max(1, each) for each in kept]

    energies = part.spectrum.square().tolist()
    lost = sum(sum(row[rank:]) for row, rank in zip(energies, ranks, strict=True))
    whole = sum(map(sum, energies))
    expected = lost / whole if whole else 0.0
    assert dropped_share(part.spectrum, ranks) == pytest.approx(expected, rel=1e-12)


def test_a_pair_without_energy_loses_none() -> None:
    assert dropped_share(torch.zeros(2, 4, dtype=torch.float64), [1, 2]) == 0.0
