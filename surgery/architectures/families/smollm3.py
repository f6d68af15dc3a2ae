"""SmolLM3: LLaMA's tensors; every fourth layer is without RoPE, and there QK absorbs."""

from __future__ import annotations

from dataclasses import replace

from surgery.architectures.families.rotary import rotary_decoder

DEFAULTS = {
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "vocab_size": 128256,
    "max_position_embeddings": 32768,
    "no_rope_layer_interval": 4,
    "tie_word_embeddings": True,
}

SMOLLM3 = rotary_decoder(
    "smollm3",
    "SmolLM3",
    "SmolLM3",
    defaults=DEFAULTS,
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    mlp_bias="mlp_bias",
    exports={},
)
SMOLLM3 = replace(
    SMOLLM3,
    attentions=(replace(SMOLLM3.attentions[0], unless=("no_rope_layers", 0)),),
    alternating={"no_rope_layers": ("no_rope_layer_interval", 1, 0)},
    by_layer={**SMOLLM3.by_layer, "no_rope_layers": ("decoder", "list")},
)
