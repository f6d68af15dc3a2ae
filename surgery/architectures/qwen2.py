"""Qwen2: q, k and v biased, o not, so v's bias stays in the VO product."""

from __future__ import annotations

from surgery.architectures.rotary import rotary_decoder

QWEN2 = rotary_decoder("qwen2", "Qwen2", qkv_bias=True)
