"""Gemma 2: scores pass through tanh, so QK stays; norms on both sides; every other layer slides."""

from __future__ import annotations

from dataclasses import replace

from surgery.architectures.families.gemma import DEFAULTS as GEMMA
from surgery.architectures.families.rotary import SANDWICHED, rotary_decoder

DEFAULTS = {
    **GEMMA,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "attn_logit_softcapping": 50.0,
}

GEMMA2 = replace(
    rotary_decoder(
        "gemma2",
        "Gemma 2",
        "Gemma2",
        defaults=DEFAULTS,
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        norms=SANDWICHED,
        heads=("CausalLM", "SequenceClassification", "TokenClassification"),
        exports={},
    ),
    alternating={"layer_types": (2, "sliding_attention", "full_attention")},
    score_scale="query_pre_attn_scalar",
    undescribed={"use_bidirectional_attention": (False, "every token attends to every other")},
)
