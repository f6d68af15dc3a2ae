"""``--to ggml``: the file that whisper.cpp reads."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.whisper_vocabulary import vocabulary_of
from surgery.errors import SurgeryError
from surgery.evaluation.audio import Audio
from surgery.events import Event, Progress
from surgery.export.fit import kept_share
from surgery.export.ggml.file import KINDS, GgmlWriter, mel_filters
from surgery.export.reference import Reference
from surgery.export.saying import ending, longest, spoken
from surgery.export.target import Choice, Comparison, Fit, Target, fits, refused
from surgery.export.whisper.form import dimensions, obstacle, refilled, renamed, speaks
from surgery.export.whisper.spoken import compared, incomparable
from surgery.export.whisper.words import misread
from surgery.stored.merged import MergedTensors
from surgery.stored.stored import Stored, read_stored
from surgery.stored.stream import cast

MELS = (80, 128)
"""Numbers of mel bins that there are filters for."""
TIE = 0.5
"""Logits closer than this may change places: whisper.cpp keeps keys and values as halves, and
looks its gelu up in a table of halves."""


class Ggml(Target):
    """whisper.cpp, in its own older binary format."""

    name = "ggml"
    title = "whisper.cpp (ggml)"
    extra = "ggml"
    runs_with = ("pywhispercpp",)
    quantizations = ("f16",)
    quantises_itself = "write f16, and give that to whisper.cpp's own quantize"
    language = "console"

    def fit(self, stored: Stored, choice: Choice) -> Fit:
        """See :meth:`Target.fit`: a Whisper with OpenAI's vocabulary and window."""
        if self.name not in stored.family.exports:
            other = "--to gguf" if "gguf" in stored.family.exports else "--to hf"
            return refused(f"{stored.family.title} is no Whisper", remedy=other)
        dims = dimensions(stored)
        reason = obstacle(stored) or speaks(stored)
        if reason is None and dims.n_mels not in MELS:
            reason = f"it has {dims.n_mels} mel bins, and there are filters for 80 and 128"
        if reason:
            words = misread(stored, dims.n_vocab) is not None
            return refused(reason, remedy="--to ct2" if words else "--to hf")
        form = f"original shapes in {choice.quantization or self.quantizations[0]}"
        if stored.ranks:
            form += ", zeros where vectors were cut"
        if narrow := refilled(stored):
            form += f", {narrow}"
        kept = kept_share(stored, {})
        remedy = "--to ct2 keeps every feed-forward block at its width"
        if stored.ranks:
            remedy = "prune with --layout tied, and --to ct2 keeps the heads small"
        return fits(form, kept=kept, remedy=None if kept is None else remedy)

    def write(
        self, stored: Stored, choice: Choice, transaction: Transaction, progress: Progress
    ) -> Sequence[str]:
        """See :meth:`Target.write`; one tensor is held at a time."""
        dims = dimensions(stored)
        kind = choice.quantization or self.quantizations[0]
        parts = list(renamed(stored, MergedTensors.dense(stored)))
        size = KINDS[kind].itemsize
        transaction.reserve(sum(math.prod(part.shape) for part in parts) * size)
        path = transaction.staging / weights(kind)
        tokens = vocabulary_of(dims.n_vocab).token_bytes()
        with GgmlWriter(path, dims, kind, mel_filters(dims.n_mels), tokens) as writer:
            for count, part in enumerate(parts):
                progress(Event("Writing", count, len(parts), part.name))
                dtype = writer.dtype(part.name, part.shape)
                writer.write(part.name, cast(part.name, part.tensor(), dtype))
        progress(Event("Writing", len(parts), len(parts)))
        why = "works the shape of every projection out of the model's width"
        slow = f"As large and as slow as the original: whisper.cpp {why}, and has no place for"
        if not stored.ranks and refilled(stored) is None:
            return []
        return [f"{slow} smaller heads or blocks."]

    def compare(self, reference: Reference, directory: Path, choice: Choice) -> Comparison:
        """See :meth:`Target.compare`: what it says of embedded recordings."""
        from importlib.metadata import version

        path = directory / weights(choice.quantization or self.quantizations[0])
        said = heard(path, reference)
        runtime = f"whisper.cpp (pywhispercpp {version('pywhispercpp')})"
        size = dimensions(read_stored(reference.source)).n_vocab
        if reason := incomparable(reference, size):
            return Comparison(runtime, f"that it runs; {reason}")
        texts = compared(reference, said, TIE)
        return Comparison(runtime, texts.told, differing=texts.differing)

    def usage(self, place: str) -> str:
        """See :meth:`Target.usage`."""
        path = shlex.quote(f"{place}/{weights('f16')}")
        return f"$ whisper-cli -m {path} -f recording.wav"


def weights(kind: str) -> str:
    """Return the name of the file."""
    return f"ggml-model-{kind}.bin"


def heard(path: Path, reference: Reference) -> list[list[int]]:
    """Return the tokens whisper.cpp says of the embedded recordings, greedily, as ours does."""
    import _pywhispercpp as cpp  # type: ignore[import-not-found]  # compiled, in pywhispercpp

    options = cpp.whisper_context_default_params()
    options.use_gpu = options.flash_attn = False  # the latter rounds more
    cpp.whisper_log_set(lambda *_: None)
    try:
        context = cpp.whisper_init_from_file_with_params(str(path), options)
        if context is None:
            raise SurgeryError("whisper.cpp cannot read what was written", where=path)
        said = [_said(cpp, context, reference, clip) for clip in reference.clips]
        cpp.whisper_free(context)
    finally:
        cpp.whisper_log_set(None)
    return said


def _said(cpp: Any, context: Any, reference: Reference, clip: Audio) -> list[int]:
    options = cpp.whisper_full_default_params(cpp.whisper_sampling_strategy.WHISPER_SAMPLING_GREEDY)
    generation = reference.model.generation_config
    asked = {
        "language": "en",
        "no_timestamps": True,
        "single_segment": True,
        "print_progress": False,
        "suppress_nst": bool(getattr(generation, "suppress_tokens", None)),
        "suppress_blank": bool(getattr(generation, "begin_suppress_tokens", None)),
        "temperature_inc": 0.0,  # no second try
        "no_speech_thold": 1.0,
        "n_threads": torch.get_num_threads(),
        "max_tokens": longest(reference.model),
    }
    for name, value in asked.items():
        setattr(options, name, value)
    cpp.whisper_full(context, options, clip, clip.size)
    tokens = [
        cpp.whisper_full_get_token_id(context, segment, place)
        for segment in range(cpp.whisper_full_n_segments(context))
        for place in range(cpp.whisper_full_n_tokens(context, segment))
    ]
    return spoken(tokens, ending(reference.model))
