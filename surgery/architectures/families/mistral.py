"""Mistral: LLaMA's tensors without biases; the sliding window is the mask's business."""

from __future__ import annotations

from dataclasses import replace

from surgery.architectures.families.rotary import rotary_decoder

DEFAULTS = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "vocab_size": 32000,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
}

MISTRAL = replace(
    rotary_decoder("mistral", "Mistral", "Mistral", defaults=DEFAULTS),
    aliases={"use_sliding_window": "sliding_window"},  # used wherever there is one
)
