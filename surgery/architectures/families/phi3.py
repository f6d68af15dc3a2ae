"""Phi-3, 3.5 and 4: q, k and v fused, gate and up fused; some turn a part of each head only."""

from __future__ import annotations

from surgery.architectures.families.rotary import rotary_decoder

DEFAULTS = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "vocab_size": 32064,
    "max_position_embeddings": 4096,
}

PHI3 = rotary_decoder(
    "phi3",
    "Phi-3 and 4",
    "Phi3",
    defaults=DEFAULTS,
    qkv="qkv_proj",
    mlp={"gate": "gate_up_proj", "up": "gate_up_proj", "down": "down_proj"},
    derived={"num_key_value_heads": "num_attention_heads"},
    heads=("CausalLM", "SequenceClassification", "TokenClassification"),
    exports={},
)
