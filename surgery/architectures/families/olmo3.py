"""OLMo 3: OLMo 2, and three of four layers attend to a sliding window."""

from __future__ import annotations

from dataclasses import replace

from surgery.architectures.families.olmo2 import OLMO2
from surgery.architectures.families.rotary import named

OLMO3 = replace(
    OLMO2,
    **named("olmo3", "OLMo 3", "Olmo3", ("CausalLM", "SequenceClassification")),
    alternating={"layer_types": (4, "sliding_attention", "full_attention")},
    exports={},
)
