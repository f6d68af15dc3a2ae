"""Qwen3: LLaMA's tensors, and a norm over each head's queries and keys, before RoPE."""

from __future__ import annotations

from surgery.architectures.families.rotary import rotary_decoder

DEFAULTS = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
}

QWEN3 = rotary_decoder(
    "qwen3",
    "Qwen3",
    "Qwen3",
    defaults=DEFAULTS,
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    qk_norms={"q_norm": ("head_dim",), "k_norm": ("head_dim",)},
    exports={"gguf": "qwen3"},
    bounds=("max_window_layers",),
)
