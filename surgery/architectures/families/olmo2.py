"""OLMo 2: norms behind attention and MLP, and one over all queries and all keys, before RoPE."""

from __future__ import annotations

from surgery.architectures.families.rotary import rotary_decoder

DEFAULTS = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "vocab_size": 50304,
    "max_position_embeddings": 2048,
}

OLMO2 = rotary_decoder(
    "olmo2",
    "OLMo 2",
    "Olmo2",
    defaults=DEFAULTS,
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    norms={
        "post_attention_layernorm": ("hidden_size",),
        "post_feedforward_layernorm": ("hidden_size",),
    },
    qk_norms={
        "q_norm": ("num_attention_heads * head_dim",),
        "k_norm": ("num_key_value_heads * head_dim",),
    },
    derived={
        "num_key_value_heads": "num_attention_heads",
        "head_dim": "hidden_size / num_attention_heads",
    },
    heads=("CausalLM", "SequenceClassification"),
    exports={"gguf": "olmo2"},
)
