"""Export: the small parts of a checkpoint as a PEFT adapter on the model they were made from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction, check_separate
from surgery.engine.adapter_writer import AdapterWriter
from surgery.engine.block import Operation
from surgery.engine.result import beside, versions
from surgery.engine.stored import Stored, TreatedLinear, read_stored
from surgery.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError, UsageError
from surgery.events import Progress, ignore

KINDS = {"sorsa": "LORA", "pissa": "LORA", "hra": "HRA"}
"""What PEFT calls each method; those missing have no form there."""


@dataclass(frozen=True)
class AdapterExport:
    """What was exported.

    Attributes:
        output: The adapter's directory.
        kind: ``LORA`` or ``HRA``.
        base: Name of the model it belongs on.
        modules: How many linear maps it changes.
        parameters: Numbers in it.
        errors: Relative Frobenius difference between each weight as the checkpoint computes it
            and base weight plus adapter, by path: what rounding W_r cost.
    """

    output: Path
    kind: str
    base: str
    modules: int
    parameters: int
    errors: Mapping[str, float]

    @property
    def worst(self) -> float:
        """The largest of the errors."""
        return max(self.errors.values(), default=0.0)


def export_peft(
    checkpoint: str | Path,
    out: str | Path | None = None,
    *,
    base: str | Path | None = None,
    force: bool = False,
    progress: Progress = ignore,
) -> AdapterExport:
    """Write the last operation's small parts as an adapter that PEFT loads on the base model.

    SORSA and PiSSA of rank r become a plain LoRA of rank 2r on the *original* weights: what was
    trained minus what was split off. HRA becomes PEFT's HRA.

    Args:
        checkpoint: A checkpoint whose last operation is a split or HRA.
        out: The adapter's directory; ``<checkpoint>-peft`` by default.
        base: The model the operation was applied to; by default its name is looked up.
        force: Replace what is in the way.
        progress: Called with :class:`surgery.events.Event`.

    Raises:
        UsageError: There is nothing that PEFT has a form for.
        CheckpointError: The base is another model than the one that was operated on.
    """
    with resolve(str(checkpoint)) as source:
        stored = read_stored(source)
        operation = _last(stored)
        kind = KINDS[operation["method"]]
        linears = {path: stored.linears[path] for path in operation["sites"]}
        _check_form(kind, linears)
        target = Path(out) if out is not None else beside(source, "peft")
        check_separate(source.directory, target)
        with _base(operation, base) as original:
            adapter = AdapterWriter(stored, read_stored(original), linears, kind)
            fingerprint = {"source": source.identity(), "peft": kind, "versions": versions()}
            with Transaction(target, fingerprint, resume=False, force=force) as transaction:
                adapter.write(transaction, progress)
                transaction.commit()
        return AdapterExport(
            output=target,
            kind=kind,
            base=original.name,
            modules=len(linears),
            parameters=adapter.parameters,
            errors=adapter.errors,
        )


def _last(stored: Stored) -> Operation:
    """Return the last operation, which must have a form in PEFT.

    Raises:
        UsageError: There is none, or it has no form there.
    """
    where = f"{stored.source.name}/config.json"
    if not stored.operations or not stored.linears:
        raise UsageError(
            "This checkpoint carries no small parts to export",
            where=where,
            hint="PEFT holds splits and HRA; a pruned checkpoint is exported whole",
        )
    last = stored.operations[-1]
    if last["method"] not in KINDS:
        raise UsageError(
            f"PEFT has no form for {last['method']}",
            where=where,
            expected=", ".join(KINDS),
            hint="merge it with surgery merge: plain weights load everywhere",
        )
    return last


def _check_form(kind: str, linears: Mapping[str, TreatedLinear]) -> None:
    """Refuse what PEFT's HRA cannot hold.

    Raises:
        UnsupportedModelError: Transposed maps, or unequal numbers of reflections.
    """
    if kind != "HRA":
        return
    fused = next((one for one in linears.values() if one.map.transposed), None)
    counts = {one.entry["reflections"] for one in linears.values()}
    if fused is not None or len(counts) > 1:
        raise UnsupportedModelError(
            "PEFT's HRA cannot hold this",
            found=f"{counts} reflections"
            if fused is None
            else f"{fused.map.path}, stored transposed (Conv1D)",
            expected="plain linear maps, all with one number of reflections",
            hint="merge it with surgery merge: plain weights load everywhere",
        )


def _base(operation: Operation, base: str | Path | None) -> TensorSource:
    """Open the model an operation was applied to, proved by its hash.

    Raises:
        CheckpointError: It is another one.
        ModelNotFoundError: Its name leads nowhere.
    """
    provenance = operation.get("provenance", {})
    name = str(base) if base is not None else str(provenance.get("source"))
    try:
        source = resolve(name)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            "An adapter needs the model it belongs on, and it cannot be found by its name",
            where=name,
            hint="say where it is with --base",
        ) from error
    if source.sha256() != provenance.get("sha256"):
        source.close()
        raise CheckpointError(
            "This is not the model that was operated on",
            where=name,
            found="weights of another hash than config.json's provenance",
            hint="give the original with --base " + shlex.quote("DIRECTORY"),
        )
    return source
