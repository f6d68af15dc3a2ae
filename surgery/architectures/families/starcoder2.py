"""StarCoder2: LLaMA's attention, a plain feed-forward block, and biases everywhere."""

from __future__ import annotations

from surgery.architectures.families.rotary import rotary_decoder

DEFAULTS = {
    "num_hidden_layers": 30,
    "num_attention_heads": 24,
    "num_key_value_heads": 2,
    "hidden_size": 3072,
    "intermediate_size": 12288,
    "vocab_size": 49152,
    "max_position_embeddings": 4096,
    "use_bias": True,
    "tie_word_embeddings": True,
}

STARCODER2 = rotary_decoder(
    "starcoder2",
    "StarCoder2",
    "Starcoder2",
    defaults=DEFAULTS,
    qkv_bias="use_bias",
    o_bias="use_bias",
    mlp={"up": "c_fc", "down": "c_proj"},
    mlp_bias="use_bias",
    norm_bias=True,
    heads=("CausalLM", "SequenceClassification", "TokenClassification"),
    exports={},
)
