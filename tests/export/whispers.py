"""Small random Whispers with OpenAI's vocabularies, as transformers lays them out."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from surgery.checkpoint.resolve import resolve
from surgery.stored.dense import dense_directory

EMBEDDING = "model.decoder.embed_tokens.weight"


def save_openai(directory: Path, size: int = 51864, layers: int = 1) -> Path:
    """Save a Whisper of few layers and 30 s, with the files of OpenAI's vocabulary of that size."""
    from whisper.model import ModelDimensions, Whisper

    torch.manual_seed(0)
    dims = ModelDimensions(80, 1500, 16, 2, layers, size, 64, 16, 2, layers)
    state = Whisper(dims).state_dict()
    for tensor in state.values():  # openai-whisper leaves some to whatever was in memory, NaN too
        tensor.normal_()
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "model.pt"
        torch.save({"dims": vars(dims), "model_state_dict": state}, path)
        with resolve(str(path)) as source, dense_directory(source) as place:
            copytree(place, directory)
    return directory


def change(directory: Path, **changes: Any) -> None:
    """Change config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def retensor(directory: Path, **tensors: Tensor | None) -> None:
    """Put tensors in the place of others, or beside them; ``None`` takes one away."""
    path = directory / "model.safetensors"
    found: dict[str, Tensor | None] = {**load_file(path), **tensors}
    kept = {name: one.clone() for name, one in found.items() if one is not None}
    save_file(kept, path, metadata={"format": "pt"})


def grow(directory: Path, more: int) -> Path:
    """Add tokens to a vocabulary, as ``resize_token_embeddings`` does."""
    rows = load_file(directory / "model.safetensors")[EMBEDDING]
    retensor(directory, **{EMBEDDING: torch.cat([rows, torch.randn(more, rows.shape[1])])})
    change(directory, vocab_size=len(rows) + more)
    return directory


def silence(directory: Path, end: int = 50256) -> Path:
    """Let a Whisper end every text before its first word, whatever it hears."""
    rows = load_file(directory / "model.safetensors")[EMBEDDING]
    norm = "model.decoder.layer_norm"
    bias = rows[end].clone()
    rows[end] *= 10  # longer than any other
    changed = {f"{norm}.weight": torch.zeros(len(bias)), f"{norm}.bias": bias, EMBEDDING: rows}
    retensor(directory, **changed)
    return directory
