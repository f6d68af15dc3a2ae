"""Granite: LLaMA's tensors; embeddings, residuals, scores and logits are scaled by config.json."""

from __future__ import annotations

from dataclasses import replace

from surgery.architectures.families.llama import DEFAULTS
from surgery.architectures.families.rotary import rotary_decoder

GRANITE = replace(
    rotary_decoder(
        "granite",
        "Granite",
        "Granite",
        defaults=DEFAULTS,
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        mlp_bias="mlp_bias",
        derived={"num_key_value_heads": "num_attention_heads"},
        heads=("CausalLM",),
        exports={},
    ),
    score_scale="attention_multiplier",
)
