"""Every export target by name; each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from surgery.errors import UsageError
from surgery.export.target import Target

HOMES = {
    "hf": "surgery.export.hf.target:HuggingFace",
    "ct2": "surgery.export.ct2.target:CTranslate2",
    "openai-whisper": "surgery.export.openai_whisper.target:OpenAIWhisper",
    "gguf": "surgery.export.gguf.target:Gguf",
    "ggml": "surgery.export.ggml.target:Ggml",
    "peft": "surgery.export.peft.target:Peft",
}
"""Name of each target, in the order they are listed, and the class that writes it."""


def target(name: str) -> Target:
    """Return the target of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in HOMES:
        raise UsageError(
            "There is no such export target", where="--to", found=name, expected=", ".join(HOMES)
        )
    module, _, kind = HOMES[name].partition(":")
    made: Target = getattr(import_module(module), kind)()
    return made
