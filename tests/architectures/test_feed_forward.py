"""Every feed-forward block of every family is found, with its maps, its shapes and its seam."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch import nn
from transformers.pytorch_utils import Conv1D

from surgery.architectures import (
    Claims,
    Config,
    FeedForwardSite,
    architecture_of,
    claim,
    feed_forward_seam,
    feed_forward_sites,
)
from surgery.errors import CheckpointError
from tests.models import TINY, tiny_model, tiny_of

TIED = ("lm_head.weight", "proj_out.weight", "cls.predictions.decoder.weight")


def claims_of(model: Any) -> tuple[Any, Config, Claims]:
    raw = {**model.config.to_dict(), "model_type": model.config.model_type}
    family = architecture_of(raw, where="config.json")
    config = Config(family, raw, "config.json")
    return family, config, claim(family, config, [n for n in model.state_dict() if n not in TIED])


def sites_of(model: Any) -> tuple[FeedForwardSite, ...]:
    return feed_forward_sites(*claims_of(model))


@pytest.mark.parametrize("name", TINY)
def test_shapes_and_biases_are_those_of_the_state_dict(name: str) -> None:
    model = tiny_model(name)
    state = model.state_dict()
    for site in sites_of(model):
        for role, each in site.projections().items():
            module = model.get_submodule(each.weight.removesuffix(".weight"))
            assert isinstance(module, Conv1D) == each.transposed
            shape = tuple(state[each.weight].shape)
            dense = (site.width, site.neurons) if role == "down" else (site.neurons, site.width)
            assert (each.out_features, each.in_features) == dense
            if role != "down" and site.gate and site.gate.weight == site.up.weight:
                dense = (2 * site.neurons, site.width)
            assert shape == (dense[::-1] if each.transposed else dense)
            assert (each.bias is not None) == (module.bias is not None)
            assert each.bias is None or tuple(state[each.bias].shape) == dense[:1]
        assert (site.gate is not None) == any(".gate_" in one for one in state)


@pytest.mark.parametrize("name", TINY)
def test_every_mlp_tensor_is_in_exactly_one_block(name: str) -> None:
    model = tiny_model(name)
    _, _, claims = claims_of(model)
    found = [tensor for site in sites_of(model) for tensor in site.tensors()]
    assert sorted(found) == sorted(claims.linears)


@pytest.mark.parametrize("name", TINY)
def test_there_is_one_block_a_layer_of_every_tower(name: str) -> None:
    model = tiny_model(name)
    sites = sites_of(model)
    towers = ["encoder", "decoder"] if name == "whisper" else [sites[0].scope]
    assert [(s.scope, s.layer) for s in sites] == [(t, n) for t in towers for n in range(2)]
    assert len({site.path for site in sites}) == len(sites)
    for site in sites:
        assert isinstance(model.get_submodule(site.path), nn.Module)
        assert str(site.layer) in site.path.split(".")
        assert all(tensor.startswith(f"{site.path}.") for tensor in site.tensors())


@pytest.mark.parametrize("name", TINY)
def test_the_seam_costs_what_a_neuron_takes(name: str) -> None:
    model = tiny_model(name)
    state = model.state_dict()
    for site in sites_of(model):
        seam = feed_forward_seam(site)
        assert (seam.name, seam.groups, seam.step, seam.least) == ("ffn", 1, 1, 0)
        assert (seam.width, seam.mixes, seam.why_not) == (site.neurons, False, None)
        assert seam.writers == (("gate", "up") if site.gate else ("up",))
        assert seam.readers == ("down",)
        whole = sum(state[name].numel() for name in site.tensors())
        behind = state[site.down.bias].numel() if site.down.bias else 0
        assert seam.cost * site.neurons == whole - behind


def test_roles_come_in_the_order_a_block_computes_them() -> None:
    (site, *_) = sites_of(tiny_model("llama"))
    assert tuple(site.projections()) == ("gate", "up", "down")


@pytest.mark.parametrize(
    ("kind", "scope"),
    [("WhisperForAudioClassification", "encoder"), ("WhisperForCausalLM", "decoder")],
)
def test_a_class_that_lacks_a_tower_has_no_blocks_there(kind: str, scope: str) -> None:
    assert {site.scope for site in sites_of(tiny_of(kind))} == {scope}


def test_biases_are_found_where_the_configuration_asks_for_them() -> None:
    model = tiny_of("LlamaForCausalLM", mlp_bias=True)
    for site in sites_of(model):
        assert all(each.bias for each in site.projections().values())
        assert feed_forward_seam(site).cost == 3 * site.width + 2


def test_a_block_without_its_up_is_an_error_that_says_what_there_is() -> None:
    family, config, claims = claims_of(tiny_model("llama"))
    rest = {name: role for name, role in claims.linears.items() if "layers.1.mlp.up" not in name}
    with pytest.raises(CheckpointError, match=r"layer 1 \(decoder\) is not whole"):
        feed_forward_sites(family, config, replace(claims, linears=rest))


def test_a_width_that_nobody_says_is_an_error_that_names_the_tensor() -> None:
    model = tiny_model("llama")
    family, _, claims = claims_of(model)
    raw = {**model.config.to_dict(), "intermediate_size": "wide"}
    with pytest.raises(CheckpointError, match=r"shape of model\.layers\.0\.mlp\.gate_proj"):
        feed_forward_sites(family, Config(family, raw, "config.json"), claims)
