"""Names that wrappers have changed are told, with what is too much and whose it is."""

from __future__ import annotations

from typing import Any

import pytest

from surgery.architectures import ARCHITECTURES, Config, claim, find_prefix
from surgery.errors import CheckpointError
from tests.models import tiny_model, tiny_of

FAMILIES = ("whisper", "llama", "bert", "gpt2")


def found(name: str, change: Any) -> str:
    state = tiny_model(name).state_dict()
    family = ARCHITECTURES[tiny_model(name).config.model_type]
    return find_prefix(family, [change(key) for key in state], where="x")


@pytest.mark.parametrize(
    ("wrapper", "owner"),
    [
        ("_orig_mod.", "torch.compile"),
        ("module.", "DistributedDataParallel"),
        ("_fsdp_wrapped_module.", "FSDP"),
        ("module._orig_mod.", "torch.compile"),
    ],
)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_wrapper_in_front_is_named(name: str, wrapper: str, owner: str) -> None:
    with pytest.raises(CheckpointError, match="carry more than") as caught:
        found(name, lambda key: wrapper + key)
    first = next(iter(tiny_model(name).state_dict()))
    assert (caught.value.found, caught.value.expected) == (wrapper + first, first)
    assert owner in str(caught.value.hint)


def test_a_wrapper_within_some_names_is_named() -> None:
    with pytest.raises(CheckpointError, match="activation checkpointing"):
        found("llama", lambda key: key.replace("layers.1.", "layers.1._checkpoint_wrapped_module."))


def test_any_other_prefix_is_shown() -> None:
    with pytest.raises(CheckpointError, match=r"(?s)carry more than.*take 'policy\.model\.'"):
        found("llama", lambda key: f"policy.{key}")


@pytest.mark.parametrize("name", ["LlamaForQuestionAnswering", "Qwen2ForQuestionAnswering"])
def test_question_answering_keeps_its_body_under_another_prefix(name: str) -> None:
    model = tiny_of(name)
    raw = model.config.to_dict()
    family = ARCHITECTURES[raw["model_type"]]
    claims = claim(family, Config(family, raw, "config.json"), list(model.state_dict()))
    assert claims.prefix == "transformer." and len(claims.sites) == 2


def test_a_classifier_of_audio_has_no_decoder_whatever_is_counted() -> None:
    model = tiny_of("WhisperForAudioClassification")
    raw = model.config.to_dict()
    assert raw["decoder_layers"] == 2
    family = ARCHITECTURES["whisper"]
    claims = claim(family, Config(family, raw, "config.json"), list(model.state_dict()))
    assert {site.scope for site in claims.sites} == {"encoder"}
