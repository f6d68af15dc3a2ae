"""Directories that hold no weights this package reads: what they are instead."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import NoReturn

from surgery.errors import CheckpointError

EXPECTED = "model.safetensors, or model.safetensors.index.json beside the shards"
CONVERT = (
    "this toolkit never opens pickles, because opening one runs the code in it; convert the "
    "checkpoint with transformers, in a place you trust it: "
    "AutoModel.from_pretrained(...).save_pretrained(...)"
)
_FROM_CHECKPOINT = "go back to the checkpoint that it was made from"
_OTHERS = (
    (
        ("adapter_config.json",),
        "The directory holds a PEFT adapter, and not the model.",
        "write it into its model: surgery import MODEL --adapter DIRECTORY",
    ),
    (
        ("model.bin", "vocabulary.*"),
        "The directory holds a model for CTranslate2.",
        _FROM_CHECKPOINT,
    ),
    (("ggml-*.bin",), "The directory holds a model for whisper.cpp.", _FROM_CHECKPOINT),
    (("*.gguf",), "The directory holds a model for llama.cpp.", _FROM_CHECKPOINT),
    (
        ("model.pt", "README.md"),
        "The directory holds openai-whisper's form.",
        "name the .pt itself",
    ),
)
"""Forms of models that are none to operate on: their files, what they are, what to do."""


def refuse_without_weights(path: Path) -> NoReturn:
    """Say what a directory without a model's safetensors holds, and what to do with that.

    Args:
        path: The directory.

    Raises:
        CheckpointError: Always.
    """
    names = sorted(entry.name for entry in path.iterdir())
    for marks, what, hint in _OTHERS:
        if all(any(fnmatchcase(name, mark) for name in names) for mark in marks):
            raise CheckpointError(what, where=path, found=", ".join(names[:8]), hint=hint)
    safetensors = [name for name in names if name.endswith(".safetensors")]
    if safetensors:
        raise CheckpointError(
            "The directory has safetensors files, but neither of the names that a model has.",
            where=path,
            found=", ".join(safetensors[:5]) + (" …" if len(safetensors) > 5 else ""),
            expected=EXPECTED,
            hint="name the one file itself, or fetch the index of the shards",
        )
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
    if pickles:
        raise CheckpointError(
            "The checkpoint holds pickled weights only.",
            where=path,
            found=", ".join(pickles[:5]),
            expected=EXPECTED,
            hint=CONVERT,
        )
    raise CheckpointError(
        "The directory holds no weights.",
        where=path,
        found=", ".join(names[:8]) or "nothing",
        expected=EXPECTED,
    )
