"""Drift is the relative error of its definition, whatever pieces the input comes in."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from surgery.errors import SurgeryError, UsageError
from surgery.evaluation.audio import Audio
from surgery.evaluation.drift import RelativeError, encoder_drift, output_drift
from surgery.evaluation.perplexity import perplexity, read_documents, token_windows


def naive_relative_error(rows: list[list[float]], others: list[list[float]]) -> float:
    columns = range(len(rows[0]))
    mean = [sum(row[c] for row in rows) / len(rows) for c in columns]
    error = sum((o[c] - r[c]) ** 2 for r, o in zip(rows, others, strict=True) for c in columns)
    spread = sum((row[c] - mean[c]) ** 2 for row in rows for c in columns)
    return math.sqrt(error / spread)


def test_relative_error_is_its_definition_in_any_pieces() -> None:
    generator = torch.Generator().manual_seed(0)
    y = 5 + torch.randn(23, 7, generator=generator, dtype=torch.float64)
    other = y + 0.1 * torch.randn(23, 7, generator=generator, dtype=torch.float64)
    expected = naive_relative_error(y.tolist(), other.tolist())
    for pieces in (23, 5, 1):
        found = RelativeError()
        for rows, others in zip(y.split(pieces), other.split(pieces), strict=True):
            found.add(rows, others)
        assert found.value == pytest.approx(expected, rel=1e-12)
        assert found.rows == 23


def test_relative_error_of_a_constant_output_is_zero_or_infinite() -> None:
    same, moved = RelativeError(), RelativeError()
    same.add(torch.full((4, 3), 2.0), torch.full((4, 3), 2.0))
    moved.add(torch.full((4, 3), 2.0), torch.full((4, 3), 2.5))
    assert same.value == 0.0
    assert moved.value == float("inf")
    assert RelativeError().value == 0.0


class Ears:
    """A processor without words: the front end alone."""

    def __init__(self) -> None:
        self.feature_extractor = WhisperFeatureExtractor(chunk_length=1)


def whisper(seed: int) -> WhisperForConditionalGeneration:
    torch.manual_seed(seed)
    config = WhisperConfig(
        vocab_size=16,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_source_positions=50,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return WhisperForConditionalGeneration(config).eval()


def clips() -> list[Audio]:
    random = np.random.default_rng(0)
    sizes = (4_000, 15_999, 16_000, 321)
    return [random.standard_normal(size).astype(np.float32) * 0.1 for size in sizes]


def test_encoder_drift_counts_the_frames_that_hold_speech() -> None:
    original, other, ears, audio = whisper(0), whisper(1), Ears(), clips()
    speech: list[tuple[list[float], list[float]]] = []
    window: list[tuple[list[float], list[float]]] = []
    for clip in audio:
        features = ears.feature_extractor(
            clip, sampling_rate=16_000, return_tensors="pt"
        ).input_features
        with torch.no_grad():
            y = original.get_encoder()(features).last_hidden_state[0].tolist()
            z = other.get_encoder()(features).last_hidden_state[0].tolist()
        pairs = list(zip(y, z, strict=True))
        window += pairs
        speech += pairs[: math.ceil(clip.size / 320)]
    for batch in (1, 3):
        found = encoder_drift(original, other, ears, audio, batch=batch)
        assert found.frames == len(speech)
        expected = naive_relative_error([y for y, _ in speech], [z for _, z in speech])
        assert found.speech == pytest.approx(expected, rel=1e-4)
        expected = naive_relative_error([y for y, _ in window], [z for _, z in window])
        assert found.window == pytest.approx(expected, rel=1e-4)


def test_a_model_does_not_drift_from_itself() -> None:
    model = whisper(0)
    found = encoder_drift(model, model, Ears(), clips())
    assert (found.speech, found.window) == (0.0, 0.0)


class Letters:
    """A tokenizer of bytes below 32, with a beginning-of-text token."""

    def __call__(self, text: str, verbose: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1, *(2 + ord(letter) % 30 for letter in text)]}


def llama(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=12,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


TEXTS = ["the cat sat on the mat and looked", "a dog", ""]


def test_perplexity_scores_every_token_once_with_half_a_window_of_context() -> None:
    model, tokenizer, context = llama(0), Letters(), 8
    nats, count = 0.0, 0
    for text in TEXTS:
        tokens = tokenizer(text)["input_ids"]
        for position in range(1, len(tokens)):
            # Windows start at 0, 4, 8, …; each scores what no earlier one held.
            begin = 0 if position < context else 4 * (position // 4) - 4
            with torch.no_grad():
                logits = model(torch.tensor([tokens[begin:position]])).logits[0, -1].double()
            nats -= float(logits.log_softmax(0)[tokens[position]])
            count += 1
    found = perplexity(model, tokenizer, TEXTS, context=context)
    assert found.tokens == count
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert found.bytes == sum(len(text) for text in TEXTS)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / found.bytes, rel=1e-5)


def test_windows_hold_every_token_exactly_once_as_new() -> None:
    model, tokenizer = llama(0), Letters()
    for context in (2, 3, 7, 12):
        for text in TEXTS:
            parts = token_windows(model, tokenizer, [text], context=context)
            new = [token for part in parts for token in part.tokens[part.first :].tolist()]
            assert new == tokenizer(text)["input_ids"]


def test_contexts_the_model_cannot_take_are_refused() -> None:
    for context in (1, 13):
        with pytest.raises(UsageError, match="2 to 12"):
            list(token_windows(llama(0), Letters(), TEXTS, context=context))
    with pytest.raises(UsageError, match="two tokens"):
        perplexity(llama(0), Letters(), [""])


def test_output_drift_ignores_what_softmax_ignores() -> None:
    original, other, tokenizer = llama(0), llama(1), Letters()
    rows, others, divergence, same = [], [], 0.0, 0
    for text in TEXTS[1:]:
        tokens = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            for y, z in zip(original(tokens).logits[0], other(tokens).logits[0], strict=True):
                rows.append((y - y.mean()).tolist())
                others.append((z - z.mean()).tolist())
                p, q = y.double().softmax(0).tolist(), z.double().softmax(0).tolist()
                divergence += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
                same += int(y.argmax() == z.argmax())
    found = output_drift(original, other, token_windows(original, tokenizer, TEXTS[1:]))
    assert found.positions == len(rows)
    assert found.relative == pytest.approx(naive_relative_error(rows, others), rel=1e-5)
    assert found.divergence == pytest.approx(divergence / len(rows), rel=1e-5)
    assert found.agreement == pytest.approx(same / len(rows))


def test_a_model_without_a_vocabulary_is_compared_by_its_hidden_states() -> None:
    config = BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
    )
    torch.manual_seed(0)
    original, other = BertModel(config).eval(), BertModel(config).eval()
    windows = list(token_windows(original, Letters(), TEXTS))
    found = output_drift(original, other, windows)
    assert found.relative > 0.1
    assert found.divergence is None
    assert found.agreement is None
    assert output_drift(original, original, windows).relative == 0.0


def test_text_divides_into_stories_or_stays_whole(tmp_path: Path) -> None:
    stories, verse = tmp_path / "stories.txt", tmp_path / "verse.txt"
    stories.write_text("once upon a time " * 20 + "\n\n" + "there was a cat " * 20 + "\n")
    verse.write_text("to be\nor not\n")
    assert len(read_documents(stories)) == 2
    assert read_documents(verse) == ["to be\nor not\n"]
    assert read_documents(verse, "lines") == ["to be", "or not"]
    assert len(read_documents(stories, "running")) == 1
    wiki = tmp_path / "wiki.txt"
    wiki.write_text(("= A title =\n" + "once upon a time " * 20 + "\n") * 3)
    assert len(read_documents(wiki)) == 1
    assert len(read_documents(wiki, "lines")) == 6


@pytest.mark.parametrize("content", [None, b"", b" \n ", b"\xff\xfe\xff"])
def test_unusable_text_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "story.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SurgeryError, match=r"story\.txt"):
        read_documents(path)
