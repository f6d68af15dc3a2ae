"""Seed-OSS: LLaMA's tensors; q, k and v biased, o not, each as config.json says."""

from __future__ import annotations

from surgery.architectures.families.rotary import rotary_decoder

DEFAULTS = {
    "num_hidden_layers": 64,
    "num_attention_heads": 80,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_size": 4096,
    "intermediate_size": 27648,
    "vocab_size": 155136,
    "max_position_embeddings": 524288,
    "attention_bias": True,
}

SEED_OSS = rotary_decoder(
    "seed_oss",
    "Seed-OSS",
    "SeedOss",
    defaults=DEFAULTS,
    qkv_bias="attention_bias",
    o_bias="attention_out_bias",
    mlp_bias="mlp_bias",
    exports={},
)
