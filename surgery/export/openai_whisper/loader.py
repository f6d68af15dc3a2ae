"""A pruned Whisper as openai-whisper's own model, with attention as narrow as it is stored."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from surgery.errors import SurgeryWarning, UnsupportedModelError
from surgery.export.whisper.alignment import DEFAULT, FOREIGN
from surgery.export.whisper.form import alignment_heads, dimensions, obstacle, renamed
from surgery.export.whisper.words import misread
from surgery.stored.adapted import open_model
from surgery.stored.merged import MergedTensors
from surgery.stored.stored import read_stored

if TYPE_CHECKING:
    from whisper.model import Whisper


@torch.no_grad()
def load_openai_whisper(
    checkpoint: str | Path,
    *,
    base: str | Path | None = None,
    device: torch.device | str | None = None,
) -> Whisper:
    """Load a Whisper, pruned or not, as the model that ``whisper.load_model`` would return.

    ``whisper.transcribe``, decoding with beams, and word timestamps run on it as on any other.
    Its attention and the caches of its keys and values are as narrow as the checkpoint's. Like
    openai-whisper's own it holds float32, and computes in float16 where it is told to.

    Args:
        checkpoint: What surgery wrote, an adapter, or any Whisper it can read.
        base: Of an adapter, its base, if it is not where it was.
        device: Where to put the model. Default: an accelerator where there is one, as in
            ``whisper.load_model``.

    Raises:
        UnsupportedModelError: It is no Whisper, or one that openai-whisper cannot run, or would
            take another's tokens for.
        SurgeryError: The checkpoint cannot be found or read.
    """
    # Imported here: they pull in numba, which nothing else needs.
    from whisper.model import ModelDimensions, Whisper

    from surgery.export.openai_whisper.attention import narrow

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with open_model(checkpoint, base=base) as source:
        stored = read_stored(source)
        family = stored.family
        if "openai-whisper" in family.exports:
            reason = obstacle(stored) or misread(stored, dimensions(stored).n_vocab)
        else:
            reason = f"it is a {family.title}"
        if reason:
            raise UnsupportedModelError(
                "openai-whisper cannot run this checkpoint",
                where=source.name,
                found=reason,
                hint="use surgery.load",
            )
        dims = dimensions(stored)
        model = Whisper(ModelDimensions(**vars(dims)))
        narrow(model, stored)
        places = model.state_dict()
        for part in renamed(stored, MergedTensors.pruned(stored)):
            places[part.name].copy_(part.tensor())
        alignment = alignment_heads(source, dims)
    if alignment.foreign:
        warnings.warn(f"{FOREIGN}: {DEFAULT}.", SurgeryWarning, stacklevel=2)
    if alignment.heads:
        mask = torch.zeros(dims.n_text_layer, dims.n_text_head, dtype=torch.bool)
        for layer, head in alignment.heads:
            mask[layer, head] = True
        model.register_buffer("alignment_heads", mask.to_sparse(), persistent=False)
    return model.to(device).eval()
