"""Arcee (AFM): LLaMA's attention, and a plain feed-forward block of squared ReLUs."""

from __future__ import annotations

from surgery.architectures.families.rotary import rotary_decoder

DEFAULTS = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_size": 2560,
    "intermediate_size": 18432,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}

ARCEE = rotary_decoder(
    "arcee",
    "Arcee",
    "Arcee",
    defaults=DEFAULTS,
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    mlp={"up": "up_proj", "down": "down_proj"},
    mlp_bias="mlp_bias",
    derived={
        "num_key_value_heads": "num_attention_heads",
        "head_dim": "hidden_size / num_attention_heads",
    },
    exports={},
)
