"""Several models in one pass measure what each would alone, against the first."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from transformers import WhisperProcessor

from surgery.evaluation import timing
from surgery.evaluation.audio import SpeechFolder
from surgery.evaluation.drift import encoder_drift, output_drift
from surgery.evaluation.layers import LayerErrors, hidden_states, stack
from surgery.evaluation.perplexity import perplexity, token_windows
from surgery.evaluation.speech import compare_speech
from surgery.evaluation.text import compare_text
from surgery.evaluation.transcribe import transcribe
from surgery.evaluation.wer import word_errors, word_errors_each
from surgery.micro.assets import DIRECTORY
from surgery.stored.loading import load
from tests.models import tiny_model

TEXTS = ["the cat sat on the mat and looked", "a dog", "", "words " * 30, "x" * 64 + "y" * 64]


class Letters:
    """A tokenizer of bytes below 48, with a beginning-of-text token."""

    def __call__(self, text: str, verbose: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1, *(3 + ord(letter) % 45 for letter in text)]}


def nudged(model: Any, amount: float = 0.05, *, layer: int = 1) -> Any:
    """A copy with the weights of one layer a little off."""
    other = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in stack(other)[layer].parameters():
            parameter += amount * torch.randn_like(parameter)
    return other


@pytest.fixture(scope="module")
def micro() -> tuple[Any, Any]:
    return load(DIRECTORY), WhisperProcessor.from_pretrained(DIRECTORY)


def test_whispers_are_measured_as_one_by_one(
    micro: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = micro
    folder, other = SpeechFolder.open(DIRECTORY / "test", limit=5), nudged(model)
    models = [model, copy.deepcopy(model), other]
    heard: list[int] = []
    runs, sound = compare_speech(
        models, processor, folder.utterances, batch=2, warm_up=True, told=heard.append
    )
    assert heard == [1, 3, 4]
    assert sum(sound) == pytest.approx(sum(clip.size for clip in folder.audio()) / 16_000)
    assert runs[0].encoder is None and runs[0].layers == {}
    for run in runs:
        assert len(run.transcribing) == len(run.encoding) == len(sound) == 3
    for one, run in zip(models[1:], runs[1:], strict=True):
        assert run.texts == transcribe(one, processor, folder.audio())
        assert run.encoder is not None
        alone = encoder_drift(model, one, processor, folder.audio())
        assert run.encoder.speech == pytest.approx(alone.speech, rel=1e-3)
        assert run.encoder.window == pytest.approx(alone.window, rel=1e-3)
        assert run.encoder.frames == alone.frames
    same, moved = runs[1:]
    assert same.layers == {"encoder": [0.0] * 4, "decoder": [0.0] * 2}
    assert same.decoder is not None and same.decoder.relative == 0.0
    assert moved.layers["encoder"][0] == 0.0
    assert all(error > 0 for error in moved.layers["encoder"][1:] + moved.layers["decoder"])

    # What is held at once is a matter of memory alone.
    monkeypatch.setattr(timing, "HELD_BYTES", 1)
    again, _ = compare_speech(models[::2], processor, folder.utterances, batch=5)
    assert again[1].layers["encoder"] == pytest.approx(moved.layers["encoder"], rel=1e-3)
    assert again[1].layers["decoder"] == pytest.approx(moved.layers["decoder"], rel=1e-3)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_language_models_are_measured_as_one_by_one(name: str) -> None:
    model, tokenizer = tiny_model(name), Letters()
    other = nudged(model)
    runs, tokens = compare_text(
        [model, copy.deepcopy(model), other], tokenizer, TEXTS, batch=3, warm_up=True
    )
    assert all(len(run.seconds) == len(tokens) for run in runs)
    for one, run in zip((model, model, other), runs, strict=True):
        alone = perplexity(one, tokenizer, TEXTS)
        assert [len(losses) for losses in run.losses] == [len(text) for text in TEXTS]
        assert sum(float(losses.sum()) for losses in run.losses) == pytest.approx(
            alone.nats, rel=1e-5
        )
    alone_drift = output_drift(model, other, token_windows(model, tokenizer, TEXTS))
    drift = runs[2].drift
    assert drift is not None and drift.divergence is not None
    assert drift.relative == pytest.approx(alone_drift.relative, rel=1e-4)
    assert drift.divergence == pytest.approx(alone_drift.divergence, rel=1e-4)
    assert drift.positions == sum(len(text) + 1 for text in TEXTS)
    assert runs[1].layers == [0.0, 0.0]
    assert runs[2].layers[0] == 0.0 < runs[2].layers[1]


@pytest.mark.parametrize("name", ["bert", "gpt2-unprefixed"])
def test_embeddings_are_means_over_each_document(name: str) -> None:
    model, tokenizer = tiny_model(name), Letters()
    texts = [text[:40] for text in TEXTS]
    runs, _ = compare_text([model, nudged(model)], tokenizer, texts, causal=False)
    assert runs[0].pooled is not None
    for text, row in zip(texts, runs[0].pooled, strict=True):
        tokens = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            expected = model.base_model(input_ids=tokens).last_hidden_state[0].double().mean(dim=0)
        assert row == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)
    assert runs[1].layers[0] == 0.0 < runs[1].layers[1]
    assert runs[1].drift is not None and runs[1].drift.divergence is None


def test_drift_after_a_layer_is_its_definition_and_leaves_no_hook() -> None:
    model, tokenizer = tiny_model("llama"), Letters()
    other, text = nudged(model, layer=0), TEXTS[0]
    before = [len(module._forward_hooks) for module in model.modules()]
    runs, _ = compare_text([model, other], tokenizer, [text])
    with pytest.raises(RuntimeError), hidden_states(stack(model)):
        raise RuntimeError
    assert [len(module._forward_hooks) for module in model.modules()] == before

    tokens = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        y, z = (
            each(tokens, output_hidden_states=True).hidden_states[1][0].double()
            for each in (model, other)
        )
    expected = math.sqrt(float((z - y).square().sum() / (y - y.mean(dim=0)).square().sum()))
    assert runs[1].layers[0] == pytest.approx(expected, rel=1e-5)


def test_models_of_other_shapes_are_scored_but_not_compared() -> None:
    model, tokenizer = tiny_model("llama"), Letters()
    model.config.max_position_embeddings = 16  # the shorter one decides for both
    errors = LayerErrors()
    errors.add([torch.zeros(2, 3)], [torch.zeros(2, 4)])
    errors.add([torch.zeros(2, 3)], [torch.ones(2, 3)])
    assert errors.values == []
    other = tiny_model("llama-wide-heads")
    runs, tokens = compare_text([other, model], tokenizer, TEXTS, batch=1)
    assert max(tokens) == 16
    assert runs[1].drift is not None  # equal vocabularies: logits compare


def test_word_errors_add_up() -> None:
    said = ["one two three", "", "nine nine", "four"]
    heard = ["one to three four", "five", "nine", "four"]
    each = word_errors_each(said, heard)
    assert [(e.substitutions, e.insertions, e.deletions, e.words) for e in each] == [
        (1, 1, 0, 3),
        (0, 1, 0, 0),
        (0, 0, 1, 2),
        (0, 0, 0, 1),
    ]
    total = word_errors(said, heard)
    assert (total.errors, total.words) == (4, 6)
