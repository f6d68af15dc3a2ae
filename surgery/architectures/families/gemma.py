"""Gemma 1: LLaMA's tensors; norms, activation and embeddings compute what no LLaMA does."""

from __future__ import annotations

from surgery.architectures.families.rotary import rotary_decoder

DEFAULTS = {
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "vocab_size": 256000,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}

GEMMA = rotary_decoder(
    "gemma",
    "Gemma",
    "Gemma",
    defaults=DEFAULTS,
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    heads=("CausalLM", "SequenceClassification", "TokenClassification"),
    exports={},
)
