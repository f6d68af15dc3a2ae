"""Ministral: Mistral's tensors; layers say each for itself whether they attend to a window."""

from __future__ import annotations

from surgery.architectures.families.mistral import DEFAULTS
from surgery.architectures.families.rotary import rotary_decoder

MINISTRAL = rotary_decoder("ministral", "Ministral", "Ministral", defaults=DEFAULTS, exports={})
