"""Tiny models with real tokenizers beside them, to be trimmed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.models import tiny_of
from tests.vocabulary.tokenizers_of import raw_tokenizer

CLASSES = {
    "LlamaForCausalLM": "byte-level",
    "GPT2LMHeadModel": "byte-fallback",
    "GemmaForCausalLM": "unigram",
    "BertForMaskedLM": "wordpiece",
    "BertModel": "wordpiece",
}
KEEP = "The kettle sings, and a word or two are said.\nNo more than that.\n"


def save_with_words(name: str, directory: Path, **changes: Any) -> Path:
    """Save a tiny model whose rows are a small tokenizer's tokens; three rows more than these."""
    raw = raw_tokenizer(CLASSES[name])
    vocab = raw["model"]["vocab"]
    size = len(vocab) + 3  # as padded for tensor cores
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = tiny_of(name, vocab_size=size, **ids, **changes)
    model.save_pretrained(directory)
    (directory / "tokenizer.json").write_text(json.dumps(raw))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    settings |= {"unk_token": "<unk>", "pad_token": "<unk>", "bos_token": "<s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory
