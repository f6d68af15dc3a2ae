"""Which model class a checkpoint is, and whether it is whole as that: as transformers sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from surgery.architectures import ARCHITECTURES, Claims, Config, check_shapes, claim
from surgery.architectures.base import BASE
from surgery.architectures.classes import expected, place
from surgery.errors import CheckpointError
from tests.models import tiny_of

NAMES = [one.name for family in ARCHITECTURES.values() for one in family.classes]
OPTIONS: dict[str, dict[str, Any]] = {
    "llama": {"mlp_bias": True, "attention_bias": True},
    "whisper": {"use_weighted_layer_sum": True},
}
UNTOLD = {
    "BertLMHeadModel": "BertForMaskedLM",  # the same tensors
    "BertForMultipleChoice": "BertForSequenceClassification",
}
"""Classes whose tensors are those of another one, which does all that they do."""


def claimed(raw: dict[str, Any], state: dict[str, Any]) -> tuple[Config, Claims]:
    family = ARCHITECTURES[raw["model_type"]]
    config = Config(family, raw, "config.json")
    claims = claim(family, config, list(state))
    check_shapes(family, config, claims, {k: tuple(v.shape) for k, v in state.items()}, where="x")
    return config, claims


def variants(name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """A class's configuration and state, plain and with all that options add."""
    kind = getattr(transformers, name).config_class.model_type
    for changes in ({}, OPTIONS.get(kind, {"tie_word_embeddings": False})):
        model = tiny_of(name, **changes)
        yield {**model.config.to_dict(), "architectures": [name]}, model.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_the_data_names_every_tensor_of_a_class_and_its_shape(name: str) -> None:
    for raw, state in variants(name):
        config, claims = claimed(raw, state)
        family = ARCHITECTURES[raw["model_type"]]
        assert claims.model_class is not None and claims.model_class.name == name
        attention = {tensor for site in claims.sites for tensor in site.tensors()}
        beside = {
            place(below, claims.prefix) for below in expected(family, config, claims.model_class)
        }
        assert attention | beside == set(state)


@pytest.mark.parametrize("name", NAMES)
def test_without_architectures_the_tensors_say_the_class(name: str) -> None:
    raw, state = next(variants(name))
    family = ARCHITECTURES[raw["model_type"]]
    usual, like = family.classes[0], UNTOLD.get(name, name)
    bare = {one.name for one in family.classes if BASE in one.autos}
    if name in bare and raw["tie_word_embeddings"] and usual.beside.keys() == usual.tied.keys():
        like = usual.name  # with its output layer tied
    if name == "BertForMultipleChoice":
        raw["id2label"] = {0: "x"}
    for said in ([], None, ["SomebodysOwn"]):
        _, claims = claimed({**raw, "architectures": said}, state)
        assert claims.model_class is not None
        assert claims.model_class.name == like


def test_a_body_without_a_head_is_the_base_model_where_nothing_is_tied() -> None:
    model = tiny_of("LlamaForCausalLM")
    state = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    raw = {**model.config.to_dict(), "architectures": None}
    for tied, name in ((False, "LlamaModel"), (True, "LlamaForCausalLM")):
        _, claims = claimed({**raw, "tie_word_embeddings": tied}, state)
        assert claims.model_class is not None and claims.model_class.name == name


def test_tensors_of_no_class_are_an_error_that_lists_the_classes() -> None:
    model = tiny_of("LlamaForCausalLM")
    state = {**model.state_dict(), "qa_outputs.weight": torch.zeros(2, 32)}
    raw = {**model.config.to_dict(), "architectures": None}
    with pytest.raises(CheckpointError, match=r"(?s)those of none.*qa_outputs.*architectures"):
        claimed(raw, state)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("LlamaForCausalLM", "model.norm.weight"),
        ("LlamaForCausalLM", "model.layers.1.mlp.up_proj.weight"),
        ("LlamaForCausalLM", "lm_head.weight"),
        ("GPT2LMHeadModel", "transformer.h.1.ln_2.bias"),
        ("BertForSequenceClassification", "bert.pooler.dense.bias"),
        ("WhisperForConditionalGeneration", "model.decoder.layers.1.encoder_attn_layer_norm.bias"),
        ("WhisperForAudioClassification", "projector.weight"),
    ],
)
def test_a_tensor_that_transformers_would_make_up_is_named(name: str, tensor: str) -> None:
    raw, state = next(variants(name))
    del state[tensor]
    with pytest.raises(CheckpointError, match=f"Tensor {tensor} is missing"):
        claimed(raw, state)


def test_a_head_that_the_named_class_lacks_is_an_error() -> None:
    raw, state = next(variants("LlamaForCausalLM"))
    with pytest.raises(CheckpointError, match=r"(?s)no place for.*lm_head\.weight.*LlamaModel"):
        claimed({**raw, "architectures": ["LlamaModel"]}, state)


@pytest.mark.parametrize(
    ("name", "head"),
    [("LlamaForSequenceClassification", "score"), ("BertForMultipleChoice", "classifier")],
)
def test_a_head_for_another_number_of_labels_is_an_error(name: str, head: str) -> None:
    raw, state = next(variants(name))
    state[f"{head}.weight"] = torch.zeros(7, 32)
    with pytest.raises(CheckpointError, match=rf"shape of {head}\.weight contradicts"):
        claimed(raw, state)


def test_a_norm_of_the_time_of_tensorflow_is_no_missing_one() -> None:
    raw, state = next(variants("BertForMaskedLM"))
    old = {k.replace("LayerNorm.weight", "LayerNorm.gamma"): v for k, v in state.items()}
    assert old.keys() != state.keys()
    claimed(raw, {k.replace("LayerNorm.bias", "LayerNorm.beta"): v for k, v in old.items()})


TIED = {
    "LlamaForCausalLM": ("model.embed_tokens.weight", "lm_head.weight"),
    "GPT2LMHeadModel": ("transformer.wte.weight", "lm_head.weight"),
    "BertForMaskedLM": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    "WhisperForConditionalGeneration": ("model.decoder.embed_tokens.weight", "proj_out.weight"),
}


@pytest.mark.parametrize("tie", [True, False, None])
@pytest.mark.parametrize("name", sorted(TIED))
def test_what_is_missing_beside_tied_embeddings_is_what_transformers_makes_up(
    name: str, tie: bool | None, tmp_path: Path
) -> None:
    model = tiny_of(name, tie_word_embeddings=False)
    raw = {**model.config.to_dict(), "architectures": [name]}
    del raw["tie_word_embeddings"]
    raw |= {} if tie is None else {"tie_word_embeddings": tie}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    for gone in ((), TIED[name][:1], TIED[name][1:], TIED[name]):
        state = {k: v.contiguous() for k, v in model.state_dict().items() if k not in gone}
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
        _, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
        if not info["missing_keys"]:
            claimed(raw, state)
            continue
        with pytest.raises(CheckpointError, match="is missing"):
            claimed(raw, state)
