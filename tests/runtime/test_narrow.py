"""Blocks of different widths compute what the dense model does with the other neurons zeroed."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery.errors import CheckpointError
from tests.engine.support import config_of, run, save_tiny, tensors_of
from tests.models import TINY
from tests.ragged import axes, make_ragged
from tests.runtime.naive import relative_error


def ragged(name: str, place: Path, *widths: int) -> Path:
    source = save_tiny(name, place / "dense")
    return make_ragged(source, place / "ragged", widths, zeroed=place / "zeroed")


@pytest.mark.parametrize("widths", [(7, 24, 40), (0, 13)], ids=["some", "none"])
@pytest.mark.parametrize("name", TINY)
def test_a_ragged_model_is_the_dense_one_with_neurons_zeroed(
    name: str, widths: tuple[int, ...], tmp_path: Path
) -> None:
    directory = ragged(name, tmp_path, *widths)
    model = surgery.load(directory)
    expected = run(surgery.load(tmp_path / "zeroed"))
    assert relative_error(run(model), expected) <= 1e-5
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(run(again), run(model))
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(run(surgery.load(tmp_path / "saved")), run(model))
    run(model).square().sum()
    assert sum(p.numel() for p in model.parameters()) < sum(
        p.numel() for p in surgery.load(tmp_path / "zeroed").parameters()
    )


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_gradients_reach_every_narrow_weight(name: str, tmp_path: Path) -> None:
    model: Any = surgery.load(ragged(name, tmp_path, 0, 9))
    ids = torch.tensor([[3, 4, 5, 6]])
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "fc" in n or "mlp" in n)


def spoil(directory: Path, path: str, entry: object) -> None:
    config = config_of(directory)
    config["surgery"]["operations"][0]["sites"][path] = entry
    (directory / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"neurons": 8}, "contradicts the surgery block"),
        ({"neurons": 41}, "at most 40 neurons"),
        ({"neurons": -1}, "an integer from 0"),
        ({"neurons": True}, "an integer from 0"),
        ({"neurons": 7, "more": 1}, "one entry, neurons"),
        ({}, "one entry, neurons"),
        (7, "one entry, neurons"),
    ],
)
def test_widths_that_are_not_those_of_the_weights_are_refused(
    entry: object, told: str, tmp_path: Path
) -> None:
    directory = ragged("llama", tmp_path, 7, 24)
    spoil(directory, "model.layers.0.mlp", entry)
    with pytest.raises(CheckpointError, match=told):
        surgery.inspect(directory)
    with pytest.raises(CheckpointError, match=r"neurons|other shapes|malformed"):
        surgery.load(directory)


def test_a_block_that_is_not_there_is_refused(tmp_path: Path) -> None:
    directory = ragged("llama", tmp_path, 7, 24)
    for path in ("model.layers.7.mlp", "model.layers.0.self_attn"):
        spoil(directory, path, {"neurons": 7})
        for reads in (surgery.inspect, surgery.load):
            with pytest.raises(CheckpointError, match="that the model does not have"):
                reads(directory)


def test_the_names_that_the_runtime_looks_for_are_every_familys(tmp_path: Path) -> None:
    from surgery.checkpoint.resolve import resolve
    from surgery.stored.stored import read_stored

    for name in TINY:
        with resolve(str(ragged(name, tmp_path / name, 5))) as source:
            blocks = read_stored(source).blocks
        naive = axes(tensors_of(tmp_path / name / "ragged"))
        assert {one.path: one.axes() for one in blocks} == naive
        assert {one.neurons for one in blocks} == {5}
