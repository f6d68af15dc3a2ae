"""Which module of this runtime restructures a family's attention."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .errors import LoadError
from .heads import HeadLayout

Swap = Callable[[nn.Module, str, HeadLayout], None]

HOMES = {
    "arcee": "rotary",
    "bert": "bert",
    "gemma": "rotary",
    "gemma2": "rotary",
    "gemma3_text": "rotary",
    "gpt2": "gpt2",
    "granite": "rotary",
    "llama": "rotary",
    "ministral": "rotary",
    "mistral": "rotary",
    "olmo2": "rotary",
    "olmo3": "rotary",
    "phi3": "rotary",
    "qwen2": "rotary",
    "qwen3": "rotary",
    "seed_oss": "rotary",
    "smollm3": "rotary",
    "starcoder2": "rotary",
    "whisper": "whisper",
}
"""For each ``model_type`` whose restructured attention this runtime runs, the module that does."""


def family_swap(model_type: str) -> Swap:
    """Return the function that swaps one attention module of a family.

    Raises:
        LoadError: If the family is not one of :data:`HOMES`.
    """
    # Imported on demand: each pulls in the family's own modelling file.
    home = HOMES.get(model_type)
    if home == "whisper":
        from .whisper import swap_whisper

        return swap_whisper
    if home == "rotary":
        from .rotary import swap_rotary

        return swap_rotary
    if home == "bert":
        from .bert import swap_bert

        return swap_bert
    if home == "gpt2":
        from .gpt2 import swap_gpt2

        return swap_gpt2
    raise LoadError(
        "This runtime cannot run a restructured model of this family.",
        where="config.json: model_type",
        found=model_type,
        expected="one of: " + ", ".join(HOMES),
    )
