"""Config, tokenizer, processor and generation files of a Whisper, from openai-whisper's assets.

The package ships the two vocabularies as ``assets/*.tiktoken`` (base64 token, rank), the
order of the special tokens in ``whisper.tokenizer``, and the spelling table of its text
normalizer. transformers wants the same facts in its own files.
"""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surgery.checkpoint.byte_bpe import merges, to_unicode
from surgery.checkpoint.whisper_vocabulary import END, Vocabulary, vocabulary_of
from surgery.errors import CheckpointError

MAX_NEW_TOKENS = 448
SPACE = 220  # the token " ": an answer must not begin with it, nor with END
FIRST_TIMESTAMP = "<|0.00|>"


@dataclass(frozen=True)
class Dimensions:
    """openai-whisper's ``ModelDimensions``: everything a Whisper's shape depends on."""

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int


def model_config(dims: Dimensions, dtype: str) -> dict[str, Any]:
    """Return ``config.json`` for a model of these dimensions."""
    vocabulary = vocabulary_of(dims.n_vocab)
    end, start = (vocabulary.specials[name] for name in (END, "<|startoftranscript|>"))
    if dims.n_audio_state != dims.n_text_state:
        raise CheckpointError(
            "Encoder and decoder have different widths, which transformers' Whisper has not.",
            found=f"{dims.n_audio_state} and {dims.n_text_state}",
        )
    return {
        "activation_dropout": 0.0,
        "activation_function": "gelu",
        "architectures": ["WhisperForConditionalGeneration"],
        "attention_dropout": 0.0,
        "begin_suppress_tokens": [SPACE, end],
        "bos_token_id": end if vocabulary.multilingual else start,
        "d_model": dims.n_audio_state,
        "decoder_attention_heads": dims.n_text_head,
        "decoder_ffn_dim": 4 * dims.n_text_state,
        "decoder_layerdrop": 0.0,
        "decoder_layers": dims.n_text_layer,
        "decoder_start_token_id": start,
        "dropout": 0.0,
        "encoder_attention_heads": dims.n_audio_head,
        "encoder_ffn_dim": 4 * dims.n_audio_state,
        "encoder_layerdrop": 0.0,
        "encoder_layers": dims.n_audio_layer,
        "eos_token_id": end,
        "init_std": 0.02,
        "is_encoder_decoder": True,
        "max_length": MAX_NEW_TOKENS,
        "max_source_positions": dims.n_audio_ctx,
        "max_target_positions": dims.n_text_ctx,
        "model_type": "whisper",
        "num_hidden_layers": dims.n_audio_layer,
        "num_mel_bins": dims.n_mels,
        "pad_token_id": end,
        "scale_embedding": False,
        "suppress_tokens": vocabulary.suppressed(),
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": dims.n_vocab,
    }


def generation_config(dims: Dimensions, name: str) -> dict[str, Any]:
    """Return ``generation_config.json``; ``name`` tells large-v1 and large-v2 apart."""
    vocabulary = vocabulary_of(dims.n_vocab)
    ids = vocabulary.specials
    end, start = ids[END], ids["<|startoftranscript|>"]
    config: dict[str, Any] = {
        "begin_suppress_tokens": [SPACE, end],
        "bos_token_id": end if vocabulary.multilingual else start,
        "decoder_start_token_id": start,
        "eos_token_id": end,
        "is_multilingual": vocabulary.multilingual,
        "max_initial_timestamp_index": 50,  # one second, at 0.02 s a step
        "max_length": MAX_NEW_TOKENS,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "pad_token_id": end,
        "prev_sot_token_id": ids["<|startofprev|>"],
        "return_timestamps": False,
        "suppress_tokens": vocabulary.suppressed(),
    }
    heads = alignment_heads(dims, name)
    if heads is not None:
        config["alignment_heads"] = heads
    if vocabulary.multilingual:
        config["lang_to_id"] = {f"<|{code}|>": ids[f"<|{code}|>"] for code in vocabulary.languages}
        config["task_to_id"] = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    return config


def alignment_heads(dims: Dimensions, name: str) -> list[list[int]] | None:
    """Cross-attention heads ``[layer, head]`` that follow the audio in time, where known.

    openai-whisper knows them for its own models. A model of the same dimensions is one of
    them, or was tuned from one; large-v1 and large-v2 differ in name only, so a name that
    says neither gets none, and word timestamps are then unavailable.
    """
    import whisper

    known: dict[str, bytes] = getattr(whisper, "_ALIGNMENT_HEADS", {})
    for model, packed in known.items():
        mask = np.frombuffer(gzip.decompress(base64.b85decode(packed)), dtype=bool)
        if mask.size != dims.n_text_layer * dims.n_text_head:
            continue
        if model.endswith(".en") != (dims.n_vocab == 51864):
            continue
        if (model in ("large", "large-v3", "large-v3-turbo", "turbo")) != (dims.n_vocab == 51866):
            continue
        if model in ("large-v1", "large-v2") and model.removeprefix("large-") not in name:
            continue
        found = np.argwhere(mask.reshape(dims.n_text_layer, dims.n_text_head))
        return [[int(layer), int(head)] for layer, head in found]
    return None


def write(dims: Dimensions, name: str, directory: Path) -> list[str]:
    """Write every sidecar file into ``directory`` and return their names."""
    vocabulary = vocabulary_of(dims.n_vocab)
    vocab = {to_unicode(token): rank for token, rank in vocabulary.ranks.items()}
    vocab[END] = vocabulary.specials[END]
    pairs = merges(vocabulary.ranks)
    added = {token: rank for token, rank in vocabulary.specials.items() if token != END}
    _write_tokenizer(directory / "tokenizer.json", vocabulary, vocab, pairs)
    objects: dict[str, Any] = {
        "added_tokens.json": added,
        "generation_config.json": generation_config(dims, name),
        "preprocessor_config.json": _preprocessor(dims),
        "special_tokens_map.json": _special_tokens_map(vocabulary),
        "tokenizer_config.json": _tokenizer_config(vocabulary),
        "vocab.json": vocab,
    }
    for file, value in objects.items():
        text = json.dumps(value, indent=None if file == "vocab.json" else 2, ensure_ascii=False)
        (directory / file).write_text(text + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (directory / "normalizer.json").write_text(vocabulary.normalizer, encoding="utf-8")
    return sorted([*objects, "merges.txt", "normalizer.json", "tokenizer.json"])


def _controls(vocabulary: Vocabulary) -> list[str]:
    """Special tokens but for the timestamps, which are ordinary to transformers."""
    first = vocabulary.specials[FIRST_TIMESTAMP]
    return [token for token, rank in vocabulary.specials.items() if rank < first]


def _write_tokenizer(
    path: Path, vocabulary: Vocabulary, vocab: dict[str, int], pairs: list[tuple[str, str]]
) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=pairs, continuing_subword_prefix="", end_of_word_suffix="")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    controls = _controls(vocabulary)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in controls])
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False)
            for token in vocabulary.specials
            if token not in controls
        ]
    )
    framing = ["<|startoftranscript|>", "<|notimestamps|>", END]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{framing[0]} {framing[1]} $A {END}",
        pair=f"{framing[0]} {framing[1]} $A $B:1 {END}:1",
        special_tokens=[(token, vocabulary.specials[token]) for token in framing],
    )
    path.write_text(tokenizer.to_str(), encoding="utf-8")


def _special_tokens_map(vocabulary: Vocabulary) -> dict[str, Any]:
    ends = {f"{role}_token": END for role in ("bos", "eos", "unk", "pad")}
    return {**ends, "additional_special_tokens": _controls(vocabulary)[1:]}


def _tokenizer_config(vocabulary: Vocabulary) -> dict[str, Any]:
    controls = set(_controls(vocabulary))
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(rank): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token in controls,
            }
            for token, rank in vocabulary.specials.items()
        },
        **_special_tokens_map(vocabulary),
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 1024,
        "processor_class": "WhisperProcessor",
        "return_attention_mask": False,
        "tokenizer_class": "WhisperTokenizer",
    }


def _preprocessor(dims: Dimensions) -> dict[str, Any]:
    return {
        "chunk_length": 30,  # seconds
        "dither": 0.0,
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": dims.n_mels,
        "hop_length": 160,  # samples: 10 ms
        "n_fft": 400,  # samples: 25 ms
        "n_samples": 480000,
        "nb_max_frames": 3000,
        "padding_side": "right",
        "padding_value": 0.0,
        "processor_class": "WhisperProcessor",
        "return_attention_mask": False,
        "sampling_rate": 16000,  # Hz
    }
