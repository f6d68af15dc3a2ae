"""Generation with caches of every kind, at the pruned width."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

import surgery
from surgery.runtime.cached_step import cache_name
from tests.runtime.naive import (
    GENERATING,
    Case,
    attend,
    exact,
    inputs,
    outputs,
    relative_error,
    tolerance,
)

EXACT = torch.float64
NEW = 10


def prompt(model: Any) -> dict[str, Tensor]:
    """A batch of two, padded on the left where the family pads prompts."""
    given = inputs(model, length=5)
    if "input_features" in given:
        return {"input_features": given["input_features"]}
    mask = given["attention_mask"].clone()
    mask[0, :2] = 0
    return given | {"attention_mask": mask}


def generate(model: Any, **options: Any) -> Tensor:
    with torch.no_grad():
        found = model.generate(
            **prompt(model), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, **options
        )
    return found if isinstance(found, Tensor) else found.sequences


MODES = {
    "greedy": {},
    "no cache": {"use_cache": False},
    "beam": {"num_beams": 3},
    "static": {"cache_implementation": "static", "disable_compile": True},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", ["ragged", "block"])
@pytest.mark.parametrize("name", GENERATING)
def test_generates_what_the_zero_padded_model_generates(
    case: Callable[..., Case], loaded: Callable[..., Any], name: str, layout: str, mode: str
) -> None:
    made = case(name, layout, exact(name))
    attend(made.oracle, "sdpa")
    model = loaded(made, exact(name))

    found = generate(model, **MODES[mode])

    assert found.tolist() == generate(made.oracle, **MODES[mode]).tolist()
    if mode == "static":  # the stock class's own static cache is not the only oracle
        assert found.tolist() == generate(model).tolist()


@pytest.mark.parametrize("name", ["whisper", "llama", "gpt2"])
def test_eager_attention_generates_the_same(case: Callable[..., Case], name: str) -> None:
    path = case(name, "ragged", torch.float32).path
    eager = surgery.load(path, attn_implementation="eager")
    sdpa = surgery.load(path, attn_implementation="sdpa")

    assert generate(eager).tolist() == generate(sdpa).tolist()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_prompt_can_be_read_in_chunks_into_a_static_cache(
    case: Callable[..., Case], loaded: Callable[..., Any], name: str
) -> None:
    model = loaded(case(name, "ragged"))

    chunked = generate(model, prefill_chunk_size=2, **MODES["static"])

    assert chunked.tolist() == generate(model).tolist()


def layers_of(cache: Any) -> dict[str, list[Any]]:
    if isinstance(cache, EncoderDecoderCache):
        return {
            "self_attn": cache.self_attention_cache.layers,
            "encoder_attn": cache.cross_attention_cache.layers,
        }
    return {"": cache.layers}


@pytest.mark.parametrize("layout", ["ragged", "block", "tied"])
@pytest.mark.parametrize("name", GENERATING)
def test_the_cache_holds_exactly_the_pruned_width(
    case: Callable[..., Case], loaded: Callable[..., Any], name: str, layout: str
) -> None:
    made = case(name, layout)
    model = loaded(made, exact(name))
    given = inputs(model, length=4)
    cached = outputs_with_cache(model, given)

    seen = 0
    for kind, layers in layers_of(cached).items():
        paths = [path for path in made.ranks if ".encoder.layers" not in path and kind in path]
        assert len(paths) == len(layers)
        for path, layer in zip(paths, layers, strict=True):
            qk, v = made.ranks[path]
            time = layer.keys.shape[2]
            if len(set(qk)) == len(set(v)) == 1:
                assert layer.keys.shape == (2, len(qk), time, qk[0])
                assert layer.values.shape == (2, len(v), time, v[0])
            else:
                assert layer.keys.shape == (2, 1, time, sum(qk))
                assert layer.values.shape == (2, 1, time, sum(v))
            assert layer.keys[0, :, 0].numel() == sum(qk)
            assert layer.values[0, :, 0].numel() == sum(v)
            seen += 1
    assert seen == (4 if name == "whisper" else 2)


def outputs_with_cache(model: Any, given: dict[str, Tensor]) -> Any:
    with torch.no_grad():
        return model(**given, use_cache=True).past_key_values


@pytest.mark.parametrize("name", GENERATING)
def test_decoding_step_by_step_equals_one_pass(
    case: Callable[..., Case], loaded: Callable[..., Any], name: str
) -> None:
    model = loaded(case(name, "ragged"), exact(name))
    given = inputs(model)
    whole = outputs(model, given)

    key = "decoder_input_ids" if name == "whisper" else "input_ids"
    tokens, pieces, cache = given[key], [], None
    for start, end in ((0, 4), (4, 5), (5, 9)):  # prompt, one token, then several at once
        step = {k: v for k, v in given.items() if k != "attention_mask"}
        step[key] = tokens[:, start:end]
        if name != "whisper":
            step["attention_mask"] = given["attention_mask"][:, :end]
        with torch.no_grad():
            out = model(**step, **{cache_name(model): cache}, use_cache=True)
        pieces.append(out.logits)
        cache = out.past_key_values

    assert relative_error(torch.cat(pieces, dim=1), whole) <= tolerance(exact(name))


def test_a_cache_can_be_cropped_and_repeated(
    case: Callable[..., Case], loaded: Callable[..., Any]
) -> None:
    model = loaded(case("llama", "ragged"), EXACT)
    tokens = inputs(model)["input_ids"]
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(tokens, **{cache_name(model): cache})
        cache.crop(-3)
        again = copy.deepcopy(cache)
        continued = model(tokens[:, 6:], **{cache_name(model): cache}).logits
        again.batch_repeat_interleave(2)
        doubled = model(tokens[:, 6:].repeat_interleave(2, 0), **{cache_name(model): again}).logits

    assert relative_error(continued, outputs(model, {"input_ids": tokens})[:, 6:]) <= tolerance(
        EXACT
    )
    assert relative_error(doubled[::2], continued) <= tolerance(EXACT)
