"""Mistral: LLaMA's tensors without biases; the sliding window is the mask's business."""

from __future__ import annotations

from surgery.architectures.rotary import rotary_decoder

MISTRAL = rotary_decoder("mistral", "Mistral")
