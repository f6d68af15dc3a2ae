"""PEFT: the last operation's small parts as an adapter on the model they were made from."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import torch

from surgery.checkpoint.names import EMBEDDED
from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction
from surgery.errors import CheckpointError, ModelNotFoundError
from surgery.events import Progress
from surgery.export.peft.writer import AdapterWriter
from surgery.export.reference import Reference, difference, outputs
from surgery.export.target import Choice, Comparison, Fit, Target, fits, refused
from surgery.stored.adapted import AdaptedSource
from surgery.stored.block import Operation
from surgery.stored.stored import Stored, TreatedLinear, read_stored, stored_dtype

KINDS = {"sorsa": "LORA", "pissa": "LORA", "hra": "HRA"}
"""What PEFT calls each method; those missing have no form there."""
MERGE = "merge it with surgery merge: plain weights load everywhere"
SAME = 1e-4
"""Largest relative difference of the outputs where nothing is rounded but in float32."""
ROUNDINGS = 8
"""What rounding frozen weights to half precision may cost the outputs, in its units."""

USAGE = """from peft import PeftModel

{load}
model = PeftModel.from_pretrained(base, "{place}")"""
STOCK = """from transformers import {name}

base = {name}.from_pretrained("{base}")"""
OPERATED = """import surgery

base = surgery.load("{base}")"""


class Peft(Target):
    """An adapter directory that PEFT loads on the model the last operation was applied to.

    SORSA and PiSSA of rank r become a plain LoRA of rank 2r on the *original* weights: what was
    trained minus what was split off. HRA becomes PEFT's HRA.
    """

    name: ClassVar[str] = "peft"
    title: ClassVar[str] = "PEFT"
    extra: ClassVar[str | None] = "peft"
    runs_with: ClassVar[tuple[str, ...]] = ("peft",)

    def __init__(self) -> None:
        self._load = ""

    def fit(self, stored: Stored, choice: Choice) -> Fit:  # noqa: ARG002
        """See :meth:`Target.fit`."""
        if not stored.operations or not stored.linears:
            return refused(
                "no small parts: PEFT holds splits and HRA", remedy="--to hf exports it whole"
            )
        last = stored.operations[-1]
        if last["method"] not in KINDS:
            return refused(f"PEFT has no form for {last['method']}", remedy=MERGE)
        linears = _linears(stored)
        if others := _trained_besides(stored, linears):
            return refused(
                f"more was trained than its small parts: {', '.join(others[:3])}", remedy=MERGE
            )
        kind = KINDS[last["method"]]
        if kind == "HRA":
            fused = next((one for one in linears.values() if one.map.transposed), None)
            if fused is not None:
                return refused(
                    f"PEFT's HRA holds no transposed map (Conv1D): {fused.map.path}", remedy=MERGE
                )
            counts = sorted({one.entry["reflections"] for one in linears.values()})
            if len(counts) > 1:
                return refused(
                    f"PEFT's HRA holds one number of reflections, not {counts}", remedy=MERGE
                )
        return fits(f"a {kind} adapter of {len(linears)} linear maps")

    def write(
        self, stored: Stored, choice: Choice, transaction: Transaction, progress: Progress
    ) -> Sequence[str]:
        """See :meth:`Target.write`.

        Raises:
            CheckpointError: The base is another model than the one that was operated on.
            ModelNotFoundError: The base's name leads nowhere.
        """
        operation, linears = stored.operations[-1], _linears(stored)
        kind = KINDS[operation["method"]]
        with open_base(operation, choice.original) as original:
            base = read_stored(original)
            place = _place(operation, choice.original, original)
            adapter = AdapterWriter(stored, base, linears, kind, place)
            adapter.write(transaction, progress)
            named = (original.config.get("architectures") or ["AutoModel"])[0]
            template = OPERATED if base.operations or place in EMBEDDED else STOCK
            self._load = template.format(name=named, base=place)
            worst = max(adapter.errors.values(), default=0.0)
            return [
                f"{kind} adapter of {len(linears)} modules, {adapter.parameters:,} parameters.",
                f"Largest relative difference of a weight: {worst:.1e}.",
                f"It belongs on {place}.",
            ]

    def compare(self, reference: Reference, directory: Path, choice: Choice) -> Comparison:
        """See :meth:`Target.compare`: the base with the adapter on it, in float32."""
        import peft

        from surgery.stored.dense import dense_directory
        from surgery.stored.loading import load_opened

        operation = read_stored(reference.source).operations[-1]
        with open_base(operation, choice.original, proved=True) as original:
            with dense_directory(original) as place:
                model = load_opened(original, place, dtype=torch.float32)
            with warnings.catch_warnings():
                # Advice about training, and about bases that are not on the hub.
                warnings.simplefilter("ignore", UserWarning)
                warnings.simplefilter("ignore", FutureWarning)
                adapted = peft.PeftModel.from_pretrained(model, str(directory)).eval()
        bound, dtype = SAME, stored_dtype(reference.source)
        if dtype != "float32":
            bound += ROUNDINGS * torch.finfo(getattr(torch, dtype)).eps / 2
        return Comparison(
            f"PEFT {version('peft')}",
            "logits of the base with the adapter",
            difference(reference.outputs, outputs(adapted, reference)),
            bound,
        )

    def usage(self, place: str) -> str:
        """See :meth:`Target.usage`."""
        return USAGE.format(load=self._load, place=place)


def _linears(stored: Stored) -> Mapping[str, TreatedLinear]:
    """Return the maps that the last operation treated, by path."""
    return {path: stored.linears[path] for path in stored.operations[-1]["sites"]}


def _trained_besides(stored: Stored, linears: Mapping[str, TreatedLinear]) -> list[str]:
    """Return what an adapter of ours changes beside these maps' small parts."""
    if not isinstance(stored.source, AdaptedSource):
        return []
    own = {name for one in linears.values() for name in one.parts.values()}
    return [name for name in stored.source.adapter.infos if name not in own]


def _source(operation: Operation) -> str:
    """Return the name of the model that an operation was applied to."""
    return str(operation["provenance"].get("source"))


def _place(operation: Operation, given: str | None, original: TensorSource) -> str:
    """Return what loads the original from where the user is: the directory as typed, or a name."""
    typed = given or _source(operation)
    return typed if Path(typed).exists() else original.name


def open_base(operation: Operation, original: str | None, *, proved: bool = False) -> TensorSource:
    """Open the model an operation was applied to, proved by its hash.

    Args:
        operation: The operation.
        original: Where the model is; by default its name is looked up.
        proved: It has been proved already.

    Raises:
        CheckpointError: It is another one.
        ModelNotFoundError: Its name leads nowhere.
    """
    name = original or _source(operation)
    try:
        source = resolve(name)
    except (ModelNotFoundError, CheckpointError) as error:
        if original is not None and isinstance(error, CheckpointError):
            raise
        raise ModelNotFoundError(
            "An adapter needs the model it belongs on, and it cannot be found by its name",
            where=name,
            hint="say where it is with --original",
        ) from error
    if not proved and source.sha256() != operation["provenance"].get("sha256"):
        source.close()
        raise CheckpointError(
            "This is not the model that was operated on",
            where=name,
            found="weights of another hash than config.json's provenance",
            hint="say where that is with --original DIRECTORY",
        )
    return source
