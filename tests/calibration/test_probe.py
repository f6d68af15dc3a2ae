"""What probes of single blocks say of cuts, against trials on the whole model."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.stats import spearmanr

from surgery.calibration.collect import collect
from surgery.calibration.modules import AttentionModules
from surgery.calibration.output_metric import output_metrics
from surgery.calibration.probe import probe_sensitivities
from surgery.calibration.sensitivity import Trials, measure_sensitivities
from surgery.calibration.towers import Hearing, towers_of
from surgery.calibration.witness import Witness, inputs_of
from surgery.events import ignore
from surgery.methods import activation_aware
from surgery.stored.pack import read_site
from tests.calibration.oracle import Letters, sites_of
from tests.calibration.test_witness import Micro, encoder, micro, text
from tests.models import tiny_model

__all__ = ["micro"]  # a fixture

TEXTS = ("once upon a time there was", "a b", "the end of it all", "some words that follow")


def both(
    model: Any, sites: Any, data: Any, processor: Any, hearing: Hearing, probes: int
) -> tuple[Trials, Trials]:
    """What probes and what trials say of the same cuts on the same rows."""
    moments = collect(model, sites, data, processor, padding_weight=hearing.padding_weight)
    state = model.state_dict()
    found = {
        site.path: activation_aware(
            read_site(state.__getitem__, site),
            moments[site.path],
            qk=True,
            vo=True,
            rotary="rope" in site.between,
        )
        for site in sites
    }
    inputs = inputs_of(model, sites, data, processor, batch=2)
    outputs = {site.path: AttentionModules(model, site).projections["o"] for site in sites}
    metrics = output_metrics(inputs, outputs, probes=probes)
    towers = towers_of(model, data, processor, hearing, decoder=False)
    probed = probe_sensitivities(model, towers, sites, found, metrics)
    return probed, measure_sensitivities(Witness(inputs), sites, found, ignore)


def damages(trials: Trials) -> list[float]:
    return [damage for tried in trials.values() for _, damage in tried]


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "bert", "gpt2-unprefixed"])
def test_probes_say_of_a_text_model_what_trials_say(name: str) -> None:
    model: Any = tiny_model(name)
    model.requires_grad_(False)
    probed, tried = both(model, sites_of(model), text(*TEXTS), Letters(), Hearing(), 20)
    assert probed.keys() == tried.keys()
    for key, of in probed.items():
        assert [at for at, _ in of] == [at for at, _ in tried[key]], "the same cuts"
    assert spearmanr(damages(probed), damages(tried)).statistic >= 0.95
    assert sum(damages(probed)) == pytest.approx(sum(damages(tried)), rel=0.5)


def test_probes_say_of_an_encoder_of_sound_what_trials_say(micro: Micro) -> None:
    model, processor, data = micro
    model.requires_grad_(False)
    sites = encoder(sites_of(model))
    probed, tried = both(model, sites, data, processor, Hearing(padding_weight=0.1), 2)
    assert spearmanr(damages(probed), damages(tried)).statistic >= 0.95
