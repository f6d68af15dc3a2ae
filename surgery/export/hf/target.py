"""transformers without remote code: a smaller model of a stock class where there is one, or dense.

A stock class has one head shape for the whole model, and only decoders of the LLaMA kind let it be
smaller than ``width / heads``. Everything else is written dense, with zeros where vectors were cut.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch

from surgery.architectures.base import BASE
from surgery.architectures.known import auto_classes
from surgery.checkpoint.transaction import Transaction
from surgery.events import Progress
from surgery.export.fit import widest, with_width
from surgery.export.hf.config import as_stored, native_config, plain_config
from surgery.export.hf.forms import (
    MIMO,
    MIMO_HEADS,
    STATIC,
    Native,
    decoder,
    kept,
    mimo_class,
    native,
    no_mimo,
    normed,
    rope_kind,
)
from surgery.export.hf.tensors import NativeTensors
from surgery.export.reference import Reference, difference, outputs
from surgery.export.target import NOTHING, WHOLE, Choice, Comparison, Fit, Target, fits
from surgery.export.whisper.alignment import drop_foreign
from surgery.report.wording import percent
from surgery.stored.adapted import AdaptedSource
from surgery.stored.merged import MergedTensors
from surgery.stored.stored import Stored, read_stored, stored_dtype
from surgery.stored.stream import stream

SAME = 1e-4
"""Largest relative difference of the outputs where every weight is written as it is."""
ROUNDINGS = 8
"""What rounding weights to half precision once more may cost the outputs, in its units."""

ANYWHERE = "the checkpoint itself stays small: load it with trust_remote_code=True"
WORDS = {"audio": "AutoProcessor", "text": "AutoTokenizer"}
"""What reads a family's input."""

USAGE = """from transformers import {model}, {words}

model = {model}.from_pretrained("{place}")
{name} = {words}.from_pretrained("{place}")"""


class HuggingFace(Target):
    """A directory that transformers' own auto classes load."""

    name: ClassVar[str] = "hf"
    title: ClassVar[str] = "transformers, no remote code"

    def __init__(self) -> None:
        self._auto, self._words = "AutoModel", "AutoTokenizer"

    def fit(self, stored: Stored, choice: Choice) -> Fit:  # noqa: ARG002 (nothing to choose)
        """See :meth:`Target.fit`."""
        source = stored.source
        stands = not stored.operations and not isinstance(source, AdaptedSource)
        if stands and source.directory is not None:
            words = "nothing was done to it: it loads in transformers as it is"
            return Fit(False, words, remedy="use it as it is", needed=False)
        form = native(stored)
        share = kept(stored, form, widest(stored))
        if share is None:
            parts = ", small parts merged" if stored.linears else ""
            return fits(f"plain: original shapes{parts}")
        told = [] if form is None else [_words(stored, form)]
        if form is None and stored.ranks:
            told.append("dense-padded: original shapes, zeros where vectors were cut")
        if stored.neurons:
            told.append("every feed-forward block as wide as the widest, zeros in the others")
        remedy = None if share == WHOLE else _remedy(stored, form)
        return fits("; ".join(told), kept=share, remedy=remedy)

    def write(
        self,
        stored: Stored,
        choice: Choice,  # noqa: ARG002
        transaction: Transaction,
        progress: Progress,
    ) -> Sequence[str]:
        """See :meth:`Target.write`."""
        source, form = stored.source, native(stored)
        widths = widest(stored)
        raw = with_width(as_stored(source.config, source), stored, widths)
        tensors: MergedTensors | NativeTensors
        if form is None:
            tensors = MergedTensors(stored, stored.operations, widths)
            config = plain_config(raw)
        else:
            tensors = NativeTensors(stored, form, widths)
            biased = any(site.q.bias is not None for site in stored.claims.sites)
            config = native_config(raw, form, biased=biased)
        stream(source, transaction, tensors.specs(), tensors.blocks(), tensors.compute, progress)
        sidecars = source.write_sidecars(transaction.staging)
        foreign = None
        if stored.family.input == "audio":
            foreign = drop_foreign(transaction.staging, config, stored.config)
        transaction.write_text("config.json", json.dumps(config, indent=2) + "\n")
        self._auto = auto_class(config)
        self._words = WORDS[stored.family.input]
        told = [note for note in (foreign, source.left_out()) if note is not None]
        return [*_notes(stored, form, sidecars), *told]

    def compare(
        self,
        reference: Reference,
        directory: Path,
        choice: Choice,  # noqa: ARG002
    ) -> Comparison:
        """See :meth:`Target.compare`: a stock auto class, in float32 on the CPU."""
        import transformers

        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        auto = auto_class(config)
        model = getattr(transformers, auto).from_pretrained(
            directory, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
        stored = read_stored(reference.source)
        bound, dtype = SAME, stored_dtype(reference.source)
        if _rounded(stored, native(stored)) and dtype != "float32":
            bound += ROUNDINGS * torch.finfo(getattr(torch, dtype)).eps / 2
        return Comparison(
            f"transformers {version('transformers')}",
            f"outputs of {auto}",
            difference(reference.outputs, outputs(model.eval(), reference)),
            bound,
            differing=_other_words(reference, directory, config),
        )

    def usage(self, place: str) -> str:
        """See :meth:`Target.usage`."""
        name = self._words.removeprefix("Auto").lower()
        return USAGE.format(model=self._auto, words=self._words, name=name, place=place)


def auto_class(config: dict[str, Any]) -> str:
    """Return the auto class that loads what ``architectures`` names; else the class itself."""
    named = str((config.get("architectures") or ["AutoModel"])[0])
    if config["model_type"] == MIMO:
        return next((auto for auto, mimo in MIMO_HEADS.items() if mimo == named), BASE)
    known = auto_classes(config)
    return next((auto for auto, one in known.items() if one == named), named)


def _remedy(stored: Stored, form: Native | None) -> str:
    if stored.neurons and (form is not None or not stored.ranks):
        one = "compress with --layout model, whose result is stock and stays small"
        return f"{one}; {ANYWHERE}"
    held = normed(stored) or rope_kind(stored.source.config) not in STATIC
    if held or not decoder(stored):
        if "ct2" in stored.family.exports:
            return f"--to ct2 keeps heads of --layout tied small; {ANYWHERE}"
        return ANYWHERE
    why = no_mimo(stored)
    if why is None:
        return "prune with --layout model: one rank for the whole model"
    return (
        f"{why}, so queries, keys and values need one width: prune with --calibrate, "
        "--layout model, --remove F --per-pair and --multiple 2"
    )


def _words(stored: Stored, form: Native) -> str:
    """Say what a smaller model is."""
    raw = stored.source.config
    named = (raw.get("architectures") or [stored.family.title])[0]
    if not form.mimo:
        return f"{named}: heads {form.head_dim} wide, of {form.full}"
    return (
        f"{mimo_class(raw)}: queries and keys {form.head_dim} wide, values {form.value_dim}, "
        f"of {form.full}"
    )


def _rounded(stored: Stored, form: Native | None) -> bool:
    """Whether weights are rounded once more: parts merged in, others trained, or q scaled."""
    trained = isinstance(stored.source, AdaptedSource)
    return trained or bool(stored.linears) or (form is not None and form.scale != 1)


def _notes(stored: Stored, form: Native | None, sidecars: Sequence[str]) -> list[str]:
    notes = []
    widths = widest(stored)
    share, dtype = kept(stored, form, widths), stored_dtype(stored.source)
    if widths:
        wide = ", ".join(f"{width:,}" for width in sorted({*widths.values()}))
        notes.append(
            f"Feed-forward blocks are all {wide} neurons wide, as the widest of their tower is: "
            "transformers' own classes have one width. In narrower ones the rest are zeros, which "
            "change nothing and are computed all the same."
        )
    if form is None and stored.ranks:
        title = stored.family.title
        notes.append(
            f"It saves nothing at run time: transformers' own {title} classes have no place for "
            "heads of these ranks, so what was cut is there as zeros."
        )
    if share is not None and NOTHING < share < WHOLE:
        notes.append(
            f"{percent(share)} of what was cut stays cut; the rest are zeros that make "
            f"{'heads' if form is not None else 'blocks'} equal."
        )
    if form is not None and form.mimo:
        notes.append(
            "MiMoV2Flash is a class of newer transformers (tried with "
            f"{version('transformers')}), and runs with eager attention there, not SDPA."
        )
        if "tokenizer_config.json" in sidecars and "tokenizer.json" not in sidecars:
            notes.append("AutoTokenizer may not know the tokenizer: load it from the original.")
    if _rounded(stored, form) and dtype != "float32":
        notes.append(f"Changed weights were rounded to {dtype} once more.")
    return notes


def _other_words(
    reference: Reference, directory: Path, config: dict[str, Any]
) -> tuple[str, str] | None:
    """Return what a text becomes, ours and theirs, where another model class changes that."""
    if config["model_type"] != MIMO or not (directory / "tokenizer.json").is_file():
        return None
    if reference.words is None:
        return None
    from transformers import AutoTokenizer

    from surgery.engine.measure.input import embedded

    theirs = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    with embedded("sample.txt") as path:
        text = path.read_text("utf-8")
    found = [str(one(text)["input_ids"]) for one in (reference.words, theirs)]
    return None if found[0] == found[1] else (found[0], found[1])
