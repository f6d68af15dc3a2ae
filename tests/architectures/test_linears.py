"""Every linear map of every family is found, with its role, its tower and its orientation."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from surgery.architectures import LINEAR_ROLES, Config, architecture_of, claim, linear_maps
from surgery.architectures.linears import LinearMap
from surgery.errors import CheckpointError
from tests.models import TINY, tiny_model


def maps_of(
    name: str, changed: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[nn.Module, tuple[LinearMap, ...]]:
    model = tiny_model(name)
    raw = {**model.config.to_dict(), "model_type": model.config.model_type}
    family = architecture_of(raw, where="config.json")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes |= changed or {}
    if "lm_head.weight" in shapes or "proj_out.weight" in shapes:
        shapes = {n: s for n, s in shapes.items() if n not in ("lm_head.weight", "proj_out.weight")}
    claims = claim(family, Config(family, raw, "config.json"), list(shapes))
    return model, linear_maps(family, claims, shapes)


@pytest.mark.parametrize("name", TINY)
def test_each_map_is_a_module_of_the_model_at_its_shape(name: str) -> None:
    model, maps = maps_of(name)
    for one in maps:
        module = model.get_submodule(one.path)
        assert isinstance(module, Conv1D) == one.transposed
        rows, columns = module.weight.shape[::-1] if one.transposed else module.weight.shape
        assert (one.out_features, one.in_features) == (rows, columns)
        assert set(one.roles) <= set(LINEAR_ROLES)


@pytest.mark.parametrize("name", TINY)
def test_no_map_inside_a_layer_is_forgotten(name: str) -> None:
    model, maps = maps_of(name)
    inside = {
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and any(part.isdigit() for part in path.split("."))
    }
    assert {one.path for one in maps} == inside


def test_fused_projections_are_one_map_with_three_roles() -> None:
    _, maps = maps_of("gpt2")
    assert {one.role for one in maps} == {"q,k,v", "o", "up", "down"}


def test_mlp_maps_belong_to_their_tower() -> None:
    _, maps = maps_of("whisper")
    scopes = {(one.path.split(".")[1], one.scope) for one in maps if one.role in ("up", "down")}
    assert scopes == {("encoder", "encoder"), ("decoder", "decoder")}
    assert {one.scope for one in maps} == {"encoder", "decoder", "cross"}
    assert torch.tensor([one.layer for one in maps]).max() == 1


@pytest.mark.parametrize("shape", [(4096,), (32, 128, 1), ()])
def test_a_weight_that_is_no_matrix_is_an_error_that_names_it(shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match=r"mlp\.c_fc\.weight is no matrix"):
        maps_of("gpt2", {"transformer.h.1.mlp.c_fc.weight": shape})
