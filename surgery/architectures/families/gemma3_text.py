"""Gemma 3, its text models: a norm over each head's queries and keys; five of six layers slide."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from surgery.architectures.families.gemma2 import DEFAULTS as GEMMA2
from surgery.architectures.families.rotary import SANDWICHED, rotary_decoder

DEFAULTS: dict[str, Any] = {
    **GEMMA2,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "attn_logit_softcapping": None,
    "sliding_window_pattern": 6,
}

GEMMA3_TEXT = replace(
    rotary_decoder(
        "gemma3_text",
        "Gemma 3",
        "Gemma3Text",
        causal="Gemma3ForCausalLM",
        defaults=DEFAULTS,
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        norms=SANDWICHED,
        qk_norms={"q_norm": ("head_dim",), "k_norm": ("head_dim",)},
        heads=("CausalLM", "SequenceClassification"),
        exports={},
    ),
    alternating={"layer_types": ("sliding_window_pattern", "sliding_attention", "full_attention")},
    score_scale="query_pre_attn_scalar",
    undescribed={
        "use_bidirectional_attention": (False, "every token attends to every other"),
        "attn_logit_softcapping": (None, "transformers does not cap scores here, others may"),
    },
)
