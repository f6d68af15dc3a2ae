"""Qwen2: q, k and v biased, o not, so v's bias stays in the VO product."""

from __future__ import annotations

from surgery.architectures.families.rotary import LLAMA_FORMS, rotary_decoder

DEFAULTS = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "max_window_layers": 28,
}

QWEN2 = rotary_decoder(
    "qwen2",
    "Qwen2",
    "Qwen2",
    defaults=DEFAULTS,
    qkv_bias=True,
    exports={**LLAMA_FORMS, "gguf": "qwen2"},
    bounds=("max_window_layers",),
)
