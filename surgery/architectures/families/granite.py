"""Granite: LLaMA's tensors; embeddings, residuals, scores and logits are scaled by config.json."""

from __future__ import annotations

from dataclasses import replace

from surgery.architectures.families.rotary import rotary_decoder

DEFAULTS = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}

GRANITE = replace(
    rotary_decoder(
        "granite",
        "Granite",
        "Granite",
        defaults=DEFAULTS,
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        mlp_bias="mlp_bias",
        heads=("CausalLM",),
        exports={},
    ),
    derived={"num_key_value_heads": "num_attention_heads"},
    score_scale="attention_multiplier",
)
