"""Short names of well-known checkpoints, and what to say about a name that is none."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from surgery.errors import ModelNotFoundError

EMBEDDED: Mapping[str, str] = {"whisper-micro": "whisper_micro"}
"""Models inside this package: name to folder below ``surgery/data``."""

_WHISPER = (
    *("tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en"),
    *("large", "large-v2", "large-v3", "large-v3-turbo"),
)
_LLAMA_2 = ("7b", "13b", "70b", "7b-chat", "13b-chat", "70b-chat")
_QWEN = {"qwen2": ("0.5B", "1.5B", "7B", "72B"), "qwen2.5": ("0.5B", "1.5B", "3B", "7B", "14B")}

SHORT_NAMES: Mapping[str, str] = {
    **{f"whisper-{size}": f"openai/whisper-{size}" for size in _WHISPER},
    "whisper-turbo": "openai/whisper-large-v3-turbo",
    **{f"llama-2-{size}": f"meta-llama/Llama-2-{size}-hf" for size in _LLAMA_2},
    "llama-3-8b": "meta-llama/Meta-Llama-3-8B",
    "llama-3-70b": "meta-llama/Meta-Llama-3-70B",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
    "llama-3.2-3b": "meta-llama/Llama-3.2-3B",
    "tinyllama": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    **{
        f"{family}-{size.lower()}": f"Qwen/{family.capitalize()}-{size}"
        for family, sizes in _QWEN.items()
        for size in sizes
    },
    **{
        f"bert-{size}-{case}": f"google-bert/bert-{size}-{case}"
        for size in ("base", "large")
        for case in ("uncased", "cased")
    },
    **{
        name: f"openai-community/{name}"
        for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
    },
}
"""Short name to hub id."""


def known_names() -> list[str]:
    """Every name that resolves without being a path or a hub id."""
    return [*EMBEDDED, *SHORT_NAMES]


def unknown_name(model: str, message: str | None = None) -> ModelNotFoundError:
    """Return the error for a name that resolves to nothing: near names, and all of them."""
    names = known_names()
    is_id = model.count("/") == 1
    # A path was meant, or a short name: for a path, near names would only distract.
    last = model.strip().lower().rsplit("/", 1)[-1] if message is None or is_id else ""
    near = [name for name in names if len(last) > 2 and last in name][:3]
    near = near or difflib.get_close_matches(last, names, n=3, cutoff=0.7)
    return ModelNotFoundError(
        message or f"There is no model {model!r}.",
        where=model,
        expected="a directory, a .pt or .safetensors file, a hub id (owner/name), or one of: "
        + ", ".join(names),
        hint=f"did you mean {' or '.join(near)}?" if near else None,
    )
