"""``--to openai-whisper``: a ``.pt`` that ``whisper.load_model`` reads."""

from __future__ import annotations

import base64
import gzip
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surgery.checkpoint.disk import target_errors
from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.whisper_assets import Dimensions
from surgery.events import Event, Progress
from surgery.export.fit import kept_share
from surgery.export.reference import Reference, difference
from surgery.export.saying import longest, suppressed
from surgery.export.target import Choice, Comparison, Fit, Target, fits, refused
from surgery.export.whisper.alignment import DEFAULT, FOREIGN
from surgery.export.whisper.form import (
    alignment_heads,
    dimensions,
    obstacle,
    refilled,
    renamed,
    speaks,
)
from surgery.export.whisper.spoken import compared, incomparable
from surgery.export.whisper.words import misread
from surgery.stored.merged import MergedTensors
from surgery.stored.stored import Stored, read_stored

WEIGHTS = "model.pt"
TIE = 1e-2
"""Logits closer than this may change places by rounding in float32."""


class OpenAIWhisper(Target):
    """The original implementation of Whisper: ``whisper.load_model`` and ``whisper.transcribe``."""

    name = "openai-whisper"
    title = "openai-whisper"
    writes_with = ()
    runs_with = ("whisper",)

    def __init__(self) -> None:
        self._speaks = True

    @property
    def install(self) -> str:
        """The command that installs what is needed."""
        return "pip install openai-whisper"

    def fit(self, stored: Stored, choice: Choice) -> Fit:  # noqa: ARG002 (nothing to choose)
        """See :meth:`Target.fit`: every Whisper with its activation fits, at original shapes."""
        if self.name not in stored.family.exports:
            return refused(f"{stored.family.title} is no Whisper", remedy="--to hf")
        if reason := obstacle(stored):
            return refused(reason, remedy="--to hf")
        if reason := misread(stored, dimensions(stored).n_vocab):
            why = f"{reason}; whisper.transcribe would take its tokens for others"
            return refused(why, remedy="--to ct2, which takes a vocabulary as it is")
        form = "every weight at its original shape"
        if stored.ranks:
            form += ", zeros where vectors were cut"
        if narrow := refilled(stored):
            form += f", {narrow}"
        if reason := speaks(stored):
            form += f"; {reason}, so load_model and logits work, and transcribe does not"
        kept = kept_share(stored, {})
        remedy = "surgery.load_openai_whisper runs the checkpoint as small as it is"
        if stored.neurons:
            remedy = "--to ct2 keeps every feed-forward block at its width"
        return fits(form, kept=kept, remedy=None if kept is None else remedy)

    def write(
        self,
        stored: Stored,
        choice: Choice,  # noqa: ARG002
        transaction: Transaction,
        progress: Progress,
    ) -> Sequence[str]:
        """See :meth:`Target.write`; tensors that did not change are not held, only mapped."""
        dims = dimensions(stored)
        parts = list(renamed(stored, MergedTensors.dense(stored)))
        transaction.reserve(sum(part.nbytes for part in parts))
        state = {}
        for count, part in enumerate(parts):
            progress(Event("Writing", count, len(parts), part.name))
            state[part.name] = part.tensor().contiguous()
        with target_errors(transaction.staging / WEIGHTS):
            torch.save(
                {"dims": asdict(dims), "model_state_dict": state}, transaction.staging / WEIGHTS
            )
        progress(Event("Writing", len(parts), len(parts)))
        notes = []
        if stored.ranks:
            notes.append(
                "As large and as slow as the original: openai-whisper takes no smaller heads "
                "from a file. surgery.load_openai_whisper gives its model with smaller ones."
            )
        if refilled(stored) is not None:
            notes.append(
                "Feed-forward blocks are there as wide as in every Whisper, four times the model's "
                "width: zeros, which change nothing and are computed all the same."
            )
        reason = speaks(stored)
        self._speaks = reason is None
        if reason:
            notes.append(f"whisper.transcribe cannot run it: {reason}.")
        alignment = alignment_heads(stored.source, dims)
        if alignment.foreign:
            notes.append(f"{FOREIGN}: {DEFAULT}.")
        if alignment.heads:
            notes.append(
                "load_model knows no alignment heads of a file. For good word timestamps: "
                f"model.set_alignment_heads({packed_heads(dims, alignment.heads)!r})"
            )
        return notes

    def compare(
        self,
        reference: Reference,
        directory: Path,
        choice: Choice,  # noqa: ARG002
    ) -> Comparison:
        """See :meth:`Target.compare`: its logits, and its texts where it can transcribe."""
        import whisper

        model = whisper.load_model(str(directory / WEIGHTS), device="cpu")
        with torch.inference_mode():
            logits = model(reference.features[:1], reference.prompt)
        stored = read_stored(reference.source)
        what, other = "logits on an embedded recording", None
        if speaks(stored) is not None:
            what += "; no text: transcribe cannot run it"
        elif reason := incomparable(reference, dimensions(stored).n_vocab):
            what += f"; {reason}"
        else:
            # On the same features: transcribe() fills up a window with zeros after the logarithm,
            # and everybody else with silence before it.
            texts = compared(reference, decoded(model, reference), TIE)
            what, other = f"logits; {texts.told}", texts.differing
        return Comparison(
            runtime=f"openai-whisper {whisper.__version__}",
            what=what,
            error=difference(reference.outputs, logits),
            bound=_bound(stored),
            differing=other,
        )

    def usage(self, place: str) -> str:
        """See :meth:`Target.usage`."""
        run = 'print(whisper.transcribe(model, "recording.wav")["text"])'
        if not self._speaks:
            run = "logits = model(mel, tokens)  # (1, mel bins, frames) and (1, tokens)"
        return f'import whisper\n\nmodel = whisper.load_model("{place}/{WEIGHTS}")\n{run}'


def decoded(model: Any, reference: Reference) -> list[list[int]]:
    """Return the tokens openai-whisper says of the embedded recordings, greedily, as ours does."""
    from whisper.decoding import DecodingOptions, decode

    generation = reference.model.generation_config
    options = DecodingOptions(
        language="en",
        without_timestamps=True,
        sample_len=longest(reference.model),
        suppress_tokens=suppressed(reference.model),
        length_penalty=1.0,  # by default texts are ranked by a mean over their tokens, if any
        suppress_blank=bool(getattr(generation, "begin_suppress_tokens", None)),
        fp16=False,
    )
    with warnings.catch_warnings():
        # openai-whisper leaves its vocabulary file to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        return [list(found.tokens) for found in decode(model, reference.features, options)]


def packed_heads(dims: Dimensions, heads: Sequence[tuple[int, int]]) -> bytes:
    """Return alignment heads as ``Whisper.set_alignment_heads`` takes them."""
    mask = np.zeros((dims.n_text_layer, dims.n_text_head), dtype=bool)
    for layer, head in heads:
        mask[layer, head] = True
    return base64.b85encode(gzip.compress(mask.tobytes(), mtime=0))


def _bound(stored: Stored) -> float:
    """Return the largest difference of logits: small parts were merged in, and rounded once."""
    if not stored.linears:
        return 1e-4
    dtypes = {stored.source.infos[one.map.weight].dtype for one in stored.linears.values()}
    return max(1e-4, *(16 * torch.finfo(dtype).eps for dtype in dtypes))
