"""Releases of transformers that call attention in another way are an error, never nonsense."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.models.bert.modeling_bert import BertSelfAttention
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.whisper.modeling_whisper import WhisperAttention

import surgery
from surgery.errors import CheckpointError
from surgery.runtime import LoadError, cached_step
from surgery.runtime.arguments import Arguments
from surgery.runtime.attention import RestructuredAttention
from surgery.runtime.bert import RestructuredBertSelfAttention
from surgery.runtime.cached_step import compare_cached_step
from surgery.runtime.families import HOMES
from surgery.runtime.gpt2 import RestructuredGPT2Attention
from surgery.runtime.releases import NEWEST, OLDEST
from surgery.runtime.rotary import RotaryHeads, rotary_attention
from surgery.runtime.whisper import RestructuredWhisperAttention
from tests.runtime.naive import GENERATING, Case

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

OURS: dict[type, type[RestructuredAttention]] = {
    BertSelfAttention: RestructuredBertSelfAttention,
    GPT2Attention: RestructuredGPT2Attention,
    WhisperAttention: RestructuredWhisperAttention,
    **{rotary_attention(family): RotaryHeads for family in HOMES if HOMES[family] == "rotary"},
}


@pytest.fixture(autouse=True)
def _first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is a process in which no model was compared yet."""
    monkeypatch.setattr(cached_step, "_compared", set())


# What stock classes are given ---------------------------------------------------------------


@pytest.mark.parametrize("stock", OURS)
def test_the_installed_release_is_understood(stock: Any) -> None:
    Arguments(stock, OURS[stock].TAKES)


@pytest.mark.parametrize("name", ["cache", "past_key_values", "past_key_value"])
def test_a_cache_is_a_cache_under_every_name_it_had(name: str) -> None:
    read = Arguments(LlamaAttention, RotaryHeads.TAKES).read
    states, cache = torch.zeros(1), DynamicCache()

    taken, passed_on = read((states,), {name: cache, "use_cache": True})

    assert taken == {"hidden_states": states, "cache": cache}
    assert passed_on == {"use_cache": True}


def test_arguments_by_position_follow_the_stock_signature() -> None:
    class Moved(torch.nn.Module):
        def forward(self, cache: Any, hidden_states: Tensor, *, attention_mask: Any = None) -> None:
            """Other places, other kinds."""

    read = Arguments(Moved, ("hidden_states", "attention_mask", "cache")).read

    assert read((1, 2), {"attention_mask": 3})[0] == {
        "cache": 1,
        "hidden_states": 2,
        "attention_mask": 3,
    }


@pytest.mark.parametrize(
    ("args", "given", "says"),
    [
        ((), {"hidden_states": 1, "kv_store": 2}, "kv_store"),
        ((1,), {"hidden_states": 2}, "hidden_states given twice"),
        ((), {"cache": 1, "past_key_values": 2}, "past_key_values given twice"),
        ((1, 2, 3, 4, 5, 6, 7), {}, "7 arguments by position"),
        ((), {"encoder_hidden_states": 1}, "encoder_hidden_states"),
    ],
)
def test_what_is_not_understood_is_refused(args: Any, given: Any, says: str) -> None:
    read = Arguments(GPT2Attention, RestructuredGPT2Attention.TAKES).read

    with pytest.raises(LoadError, match=says) as raised:
        read(args, given)

    assert "transformers" in str(raised.value.where)
    assert "surgery refresh" in str(raised.value.hint)


def test_what_is_not_there_needs_no_understanding() -> None:
    read = Arguments(GPT2Attention, RestructuredGPT2Attention.TAKES).read

    assert read((1,), {"kv_store": None}) == ({"hidden_states": 1}, {})


def test_what_is_typed_as_passed_on_is_passed_on() -> None:
    read = Arguments(LlamaAttention, RotaryHeads.TAKES).read

    assert read((), {"cu_seq_lens_q": 1, "output_router_logits": 2})[1] == {
        "cu_seq_lens_q": 1,
        "output_router_logits": 2,
    }


# A later release ----------------------------------------------------------------------------


def renamed(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: Any = None,
    attention_mask: Any = None,
    kv_store: Any = None,
    **kwargs: Any,
) -> Any:
    """LlamaAttention.forward of a release that calls the cache another name."""


def added(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: Any = None,
    attention_mask: Any = None,
    cache: Any = None,
    sink: Any = None,
    **kwargs: Any,
) -> Any:
    """LlamaAttention.forward of a release with one more argument."""


@pytest.mark.parametrize("remote", [False, True])
def test_a_renamed_keyword_is_an_error_that_says_what_to_do(
    case: Callable[..., Case], remote: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = case("llama", "ragged", torch.float32).path
    monkeypatch.setattr(LlamaAttention, "forward", renamed)

    with pytest.raises(ValueError if remote else CheckpointError) as raised:
        if remote:
            from tests.export.test_remote_code import carrying

            AutoModelForCausalLM.from_pretrained(carrying(path), trust_remote_code=True)
        surgery.load(path)

    text = str(raised.value)
    assert "LlamaAttention" in text and "kv_store" in text and "cache" in text
    assert f"use transformers {OLDEST} to {NEWEST}" in text and "surgery refresh" in text


def test_a_new_argument_is_an_error_once_it_has_a_value(
    case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = case("llama", "ragged", torch.float32).path
    monkeypatch.setattr(LlamaAttention, "forward", added)
    model = surgery.load(path)
    tokens = torch.tensor([[3, 5, 7]])
    model(tokens)

    with pytest.raises(LoadError, match="sink"):
        model(tokens, sink=torch.zeros(1))


@pytest.mark.parametrize("name", GENERATING)
def test_a_cache_that_forgets_is_found_when_a_model_is_loaded(
    case: Callable[..., Case], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = case(name, "ragged", torch.float32).path
    surgery.load(path)
    cached_step._compared.clear()

    def forgets(self: Any, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
        return key, value

    monkeypatch.setattr(DynamicCache, "update", forgets)
    with pytest.raises(CheckpointError, match=r"with its cache") as raised:
        surgery.load(path)
    assert f"use transformers {OLDEST}" in str(raised.value)


def test_a_cache_that_forgets_is_found_when_remote_code_first_generates(
    case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = case("llama", "ragged", torch.float32).path
    model: Any = surgery.load(path)
    cached_step._compared.clear()  # as where nobody compared at loading

    def forgets(self: Any, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
        return key, value

    monkeypatch.setattr(DynamicCache, "update", forgets)
    with pytest.raises(LoadError, match="transformers"):
        model.generate(torch.tensor([[3, 5, 7]]), max_new_tokens=2)


def test_weights_that_are_not_finite_are_no_fault_of_a_release(
    case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = surgery.load(case("gpt2", "ragged", torch.float32).path)

    # Fused kernels may hide rows that are NaN when they read them at once.
    def finite_at_once(*_: Any, use_cache: bool, **__: Any) -> Any:
        return SimpleNamespace(logits=torch.full((1, 2, 3), float("nan") if use_cache else 1.0))

    monkeypatch.setattr(model, "forward", finite_at_once)
    with pytest.raises(LoadError, match="differ by nan"):
        compare_cached_step(model)
    next(model.parameters()).data.view(-1)[0] = float("nan")
    compare_cached_step(model)


def test_a_cache_of_another_shape_is_no_traceback(
    case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = case("llama", "ragged", torch.float32).path

    def doubled(self: Any, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
        return torch.cat([key, key], 1), torch.cat([value, value], 1)

    monkeypatch.setattr(DynamicCache, "update", doubled)
    with pytest.raises(CheckpointError, match="with its cache"):
        surgery.load(path)


def test_arguments_of_losses_and_tokenizers_reach_no_module_that_minds(
    case: Callable[..., Case],
) -> None:
    model = surgery.load(case("llama", "ragged", torch.float32).path)
    tokens = torch.tensor([[3, 5, 7]])

    found = model(tokens, labels=tokens, ignore_index=-100, token_type_ids=torch.zeros_like(tokens))

    assert found.loss.isfinite()
    with pytest.raises(LoadError, match="foo"):
        model(tokens, foo=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", GENERATING)
def test_comparing_leaves_the_model_and_all_randomness_alone(
    case: Callable[..., Case], name: str, dtype: torch.dtype
) -> None:
    model = surgery.load(case(name, "ragged", torch.float32).path, dtype=dtype).train()
    model.base_model.eval()
    training = [module.training for module in model.modules()]
    state = torch.get_rng_state()

    compare_cached_step(model)

    assert [module.training for module in model.modules()] == training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_declared_range_is_what_was_tested() -> None:
    dependencies = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]["dependencies"]
    (declared,) = (each for each in dependencies if each.startswith("transformers"))
    major, minor = NEWEST.split(".")

    assert declared == f"transformers>={OLDEST},<{major}.{int(minor) + 1}"
    tested = re.findall(
        r"transformers==(\d+\.\d+\.\d+)", (PYPROJECT.parent / ".ci/releases").read_text()
    )
    assert tested[0] == OLDEST
