"""LLaMA 1, 2 and 3: no biases unless ``attention_bias`` says so."""

from __future__ import annotations

from surgery.architectures.rotary import rotary_decoder

LLAMA = rotary_decoder("llama", "LLaMA", qkv_bias="attention_bias", o_bias="attention_bias")
