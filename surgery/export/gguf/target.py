"""``--to gguf``: one file that llama.cpp and everything built on it reads."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from surgery.checkpoint.transaction import Transaction
from surgery.events import Progress
from surgery.export.gguf.chat import Chat, read_chat
from surgery.export.gguf.file import context_length, expected_bytes, stored_kind, write
from surgery.export.gguf.form import BLOCK, RAGGED, GgufForm, choose, layers, obstacle
from surgery.export.gguf.run import compare
from surgery.export.gguf.tensors import GgufTensors
from surgery.export.gguf.words import Words, read_words
from surgery.export.hf.config import effective, plain_config
from surgery.export.hf.forms import kept, normed, removed, rope_kind
from surgery.export.reference import Reference
from surgery.export.target import NOTHING, WHOLE, Choice, Comparison, Fit, Target, fits, refused
from surgery.report.wording import percent
from surgery.stored.adapted import AdaptedSource
from surgery.stored.stored import Stored, read_stored, stored_dtype

WEIGHTS = "model.gguf"
BOUNDS = {"f32": 1e-4, "f16": 1e-2, "bf16": 5e-2, "q8_0": 0.1}
"""Largest relative difference of log-probabilities, by the type of the matrices."""


class Gguf(Target):
    """llama.cpp: decoders of the LLaMA kind, smaller where one width does for the whole model."""

    name = "gguf"
    title = "llama.cpp (GGUF)"
    extra = "gguf"
    writes_with = ("gguf",)
    runs_with = ("xllamacpp",)
    quantizations = ("f32", "f16", "bf16", "q8_0")
    quantises_itself = "write f16, and give that to llama.cpp's own llama-quantize"
    language = "console"

    def __init__(self) -> None:
        self._stand_in = False

    def fit(self, stored: Stored, choice: Choice) -> Fit:
        """See :meth:`Target.fit`; without a quantization, the type that is stored is kept."""
        if reason := obstacle(stored):
            other = "--to ct2" if "ct2" in stored.family.exports else "--to hf"
            return refused(reason, remedy=other)
        form = choose(stored)
        words = f"architecture {form.arch}, {_kind(stored, choice)}"
        share = _share(stored, form)
        if share is None:
            return fits(words)
        if form.smaller:
            words += f", {_widths(form)}"
            if form.cache is not None:
                words += f"; {form.cache}"
        elif stored.ranks:
            words += ", original shapes with zeros where vectors were cut"
        if stored.neurons:
            equal = "as wide as the widest, zeros in the others"
            words += f", feed-forward blocks {'at their widths' if _ragged(form) else equal}"
        remedy = None if share == WHOLE else _remedy(stored)
        if remedy is None and form.cache is not None:
            remedy = f"for a quantised KV cache, prune with --multiple {BLOCK}"
        return fits(words, kept=share, remedy=remedy)

    def write(
        self, stored: Stored, choice: Choice, transaction: Transaction, progress: Progress
    ) -> Sequence[str]:
        """See :meth:`Target.write`; one tensor is held at a time."""
        form, kind = choose(stored), _kind(stored, choice)
        words = _words(stored)
        chat = _chat(stored, words)
        self._stand_in = words.stand_in
        parts = list(GgufTensors(stored, form).placed())
        transaction.reserve(expected_bytes(parts, kind))
        write(transaction.staging / WEIGHTS, stored, form, words, chat, kind, progress)
        return [*_notes(stored, form, words, templates=bool(chat.templates)), *chat.notes]

    def compare(self, reference: Reference, directory: Path, choice: Choice) -> Comparison:
        """See :meth:`Target.compare`: the likeliest next words, and the tokens of a text."""
        stored = read_stored(reference.source)
        words = _words(stored)
        ends = _chat(stored, words).ends
        room = context_length(_config(stored))
        found = compare(reference, directory / WEIGHTS, room, words, ends)
        kinds = {_kind(stored, choice)}
        if stored.linears or choose(stored).smaller or isinstance(stored.source, AdaptedSource):
            kinds.add(_kind(stored, Choice()))  # rounded on the way
        return Comparison(
            runtime=f"llama.cpp (xllamacpp {version('xllamacpp')})",
            what=found.what,
            error=found.error,
            bound=max(BOUNDS[kind] for kind in kinds),
            differing=found.differing,
        )

    def usage(self, place: str) -> str:
        """See :meth:`Target.usage`."""
        path = shlex.quote(f"{place}/{WEIGHTS}")
        if self._stand_in:
            return f"$ llama-server -m {path}"
        return f'$ llama-cli -m {path} -p "Once upon a time"'


def _kind(stored: Stored, choice: Choice) -> str:
    return choice.quantization or stored_kind(stored_dtype(stored.source))


def _words(stored: Stored) -> Words:
    return read_words(_files(stored).get("tokenizer.json"), _config(stored).vocab_size)


def _chat(stored: Stored, words: Words) -> Chat:
    return read_chat(_files(stored), _config(stored).eos_token_id, words.tokens)


def _config(stored: Stored) -> Any:
    """Return the configuration as transformers reads it."""
    return effective(plain_config(stored.source.config))


def _files(stored: Stored) -> dict[str, Path]:
    return {path.name: path for path in stored.source.sidecars()}


def _share(stored: Stored, form: GgufForm) -> float | None:
    """Return how much of what was removed stays removed; ``None``: nothing was removed."""
    share = kept(stored, form.heads if form.smaller else None, form.widths)
    if share is None or not form.output:
        return share
    again = int(stored.config.vocab_size * stored.config.hidden_size)
    return max(NOTHING, share - again / removed(stored))


def _ragged(form: GgufForm) -> bool:
    return form.arch == RAGGED


def _widths(form: GgufForm) -> str:
    heads = form.heads
    if heads.head_dim == heads.value_dim:
        return f"heads {heads.head_dim} wide, of {heads.full}"
    return f"queries and keys {heads.head_dim} wide, values {heads.value_dim}, of {heads.full}"


def _remedy(stored: Stored) -> str:
    if stored.neurons and not stored.ranks:
        return "compress with --layout model: one width for the whole model"
    if normed(stored):
        return "transformers runs the checkpoint as small as it is, with trust_remote_code=True"
    biased = any(name.endswith("proj.bias") for name in stored.source.infos)
    if rope_kind(stored.source.config) == "default" and not biased and not layers(stored).tied:
        return "prune with --seams vo and --layout model: one V rank for the whole model"
    return (
        "queries, keys and values need one width: prune with --calibrate, --layout model, "
        "--remove F --per-pair and --multiple 2"
    )


def _notes(stored: Stored, form: GgufForm, words: Words, *, templates: bool) -> list[str]:
    notes = []
    share = _share(stored, form)
    if share == NOTHING:
        notes.append(
            "As large and as slow as the original: llama.cpp has one width for all heads of a "
            "model, and here for all feed-forward blocks, so what was cut is there as zeros."
        )
    elif share is not None and share < WHOLE:
        notes.append(
            f"{percent(share)} of what was cut stays cut; the rest are zeros that fill up."
        )
    if _ragged(form):
        notes.append(
            "Written as Deci, llama.cpp's architecture with a width for every layer; all else is a "
            "LLaMA's."
        )
    odd = sorted({width for width in (form.heads.head_dim, form.heads.value_dim) if width % BLOCK})
    if odd and form.cache is None:  # which the form tells where the original's could be
        notes.append(
            "llama.cpp has no quantised KV cache (--cache-type-k, --cache-type-v) for it: heads "
            f"{' and '.join(map(str, odd))} wide are no multiple of {BLOCK}, nor are those of the "
            "original."
        )
    if form.arch == "mimo2":
        notes.append(
            "Written as MiMo 2, llama.cpp's architecture with narrower values than keys; all "
            "else that makes it other than a LLaMA is switched off."
        )
    if words.stand_in:
        notes.append(
            "llama.cpp has no tokenizer like this model's: tokens stand there as [0], [1], …; "
            "tell its server token ids, not text."
            + (" The chat template, made of text, was left out." if templates else "")
        )
    config = _config(stored)
    if context_length(config) < config.max_position_embeddings:
        notes.append(
            f"llama.cpp attends to the whole text, not to a window of {context_length(config)} "
            "tokens: longer texts differ, and so that is the length it is told."
        )
    return notes
