"""LLaMA 1, 2 and 3: no biases unless ``attention_bias`` says so."""

from __future__ import annotations

from surgery.architectures.families.rotary import rotary_decoder

DEFAULTS = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}

LLAMA = rotary_decoder(
    "llama",
    "LLaMA",
    "Llama",
    defaults=DEFAULTS,
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    mlp_bias="mlp_bias",
)
