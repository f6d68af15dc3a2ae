"""Dtypes: what is loaded, what a cast keeps, and how far 16-bit results may be off."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

import surgery
from tests.runtime.naive import Case, inputs, outputs, relative_error

FAMILIES = pytest.mark.parametrize(
    "name", ["whisper", "llama", "mistral-window-wide", "qwen2-mixed-layers", "bert-masked", "gpt2"]
)
HALVES = pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
ROTARY = pytest.mark.parametrize("name", ["llama", "mistral-window-wide", "qwen2-mixed-layers"])


def dtypes(model: Any) -> set[torch.dtype]:
    return {parameter.dtype for parameter in model.parameters()}


def frequencies(model: Any) -> dict[str, torch.Tensor]:
    return {name: buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")}


@HALVES
def test_a_half_checkpoint_loads_as_float32_on_the_cpu_unless_asked(
    own_case: Callable[..., Case], half: torch.dtype
) -> None:
    path = own_case("whisper", "ragged", half).path

    assert dtypes(surgery.load(path)) == {torch.float32}
    assert dtypes(surgery.load(path, dtype="auto")) == {half}
    assert dtypes(surgery.load(path, dtype=half)) == {half}


@HALVES
@FAMILIES
def test_sixteen_bit_results_are_as_good_as_the_dense_models(
    case: Callable[..., Case], name: str, half: torch.dtype
) -> None:
    made = case(name, "ragged")
    given = inputs(made.oracle)
    truth = outputs(made.oracle, given)
    oracle = copy.deepcopy(made.oracle).to(half)
    for buffer, value in frequencies(made.oracle).items():  # stock casts round these, ours do not
        module, _, attribute = buffer.rpartition(".")
        setattr(oracle.get_submodule(module), attribute, value.float())
    model = surgery.load(made.path, dtype=half, attn_implementation="sdpa")
    oracle.set_attn_implementation("sdpa")
    given = {
        key: value.to(half) if value.is_floating_point() else value for key, value in given.items()
    }

    ours = relative_error(outputs(model, given), truth)
    stock = relative_error(outputs(oracle, given), truth)

    # Both round every intermediate result once; sums differ in order, so errors differ by chance.
    assert ours <= 2 * stock + torch.finfo(half).eps


@HALVES
@ROTARY
def test_rotary_frequencies_stay_float32_whatever_the_cast(
    case: Callable[..., Case], name: str, half: torch.dtype
) -> None:
    path = case(name, "ragged").path
    expected = frequencies(surgery.load(path))
    assert expected

    for cast in (
        surgery.load(path, dtype=half),
        surgery.load(path).to(half),
        surgery.load(path).to("cpu", half),
        surgery.load(path).half() if half == torch.float16 else surgery.load(path).bfloat16(),
    ):
        assert dtypes(cast) == {half}
        found = frequencies(cast)
        assert found.keys() == expected.keys()
        for buffer, value in found.items():
            assert value.dtype == torch.float32
            assert torch.equal(value, expected[buffer])


@ROTARY
def test_rotary_frequencies_follow_the_device(case: Callable[..., Case], name: str) -> None:
    model = surgery.load(case(name, "ragged").path).to("meta", torch.bfloat16)

    assert all(value.device.type == "meta" for value in frequencies(model).values())
    assert all(value.dtype == torch.float32 for value in frequencies(model).values())


@FAMILIES
def test_a_cast_there_and_back_still_runs(case: Callable[..., Case], name: str) -> None:
    model = surgery.load(case(name, "ragged").path)
    given = inputs(model)
    before = outputs(model, given)

    after = outputs(model.double().float(), given)

    assert torch.equal(before, after)


@FAMILIES
def test_copies_and_pickles_are_the_same_model(case: Callable[..., Case], name: str) -> None:
    model = surgery.load(case(name, "ragged").path)
    given = inputs(model)
    expected = outputs(model, given)
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)

    for same in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(saved, weights_only=False),
    ):
        assert type(same) is type(model)
        assert torch.equal(outputs(same, given), expected)


def test_generation_works_on_float32_features_from_an_fp16_checkpoint(
    own_case: Callable[..., Case],
) -> None:
    model = surgery.load(own_case("whisper", "ragged", torch.float16).path)
    features = torch.randn(1, 8, 24)

    assert model.generate(input_features=features, max_new_tokens=4).shape[0] == 1
