"""Export: the small parts of a checkpoint as a PEFT adapter on the model they were made from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from surgery.architectures import LinearMap
from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction, check_separate
from surgery.checkpoint.writer import TensorSpec
from surgery.engine.block import Operation
from surgery.engine.parallel import map_ahead
from surgery.engine.result import versions
from surgery.engine.stored import Stored, TreatedLinear, read_stored
from surgery.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError, UsageError
from surgery.events import Event, Progress, ignore
from surgery.export.peft import CONFIG, WEIGHTS, adapter_config, config_text, tensor_names
from surgery.linalg import truncated_svd

KINDS = {"sorsa": "LORA", "pissa": "LORA", "hra": "HRA"}
"""What PEFT calls each method; those missing have no form there."""

TIGHT = 1e-9  # what was split off has its rank exactly, but for the rounding of the rest

TASKS = {"ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM"}
"""End of a model class's name to PEFT's task; others are loaded without one."""


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
        target = Path(out) if out is not None else _default(source)
        check_separate(source.directory, target)
        with _base(operation, base) as original:
            adapter = _Writer(stored, read_stored(original), linears, kind)
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


def _default(source: TensorSource) -> Path:
    if source.directory is None:
        raise UsageError("Say where to write the adapter with -o", where=source.name)
    directory = source.directory.resolve()
    return directory.with_name(f"{directory.name}-peft")


class _Writer:
    """Computes an adapter map by map and writes it.

    Args:
        stored: The checkpoint.
        original: The model it was made from.
        linears: The maps to export, by path.
        kind: ``LORA`` or ``HRA``.
    """

    def __init__(
        self,
        stored: Stored,
        original: Stored,
        linears: Mapping[str, TreatedLinear],
        kind: str,
    ) -> None:
        self._stored, self._original = stored, original
        self._linears, self._kind = linears, kind
        self.errors: dict[str, float] = {}
        self.parameters = 0

    def write(self, transaction: Transaction, progress: Progress) -> None:
        """Write weights and configuration into the transaction."""
        compute = self._lora if self._kind == "LORA" else self._hra
        tensors: dict[str, Tensor] = {}
        total = len(self._linears)
        for index, (path, parts) in enumerate(
            zip(self._linears, map_ahead(compute, self._linears), strict=True)
        ):
            progress(Event("Writing the adapter", index, total, path))
            names = tensor_names(self._kind, self._module(path))
            tensors |= {names[part]: tensor for part, tensor in parts.items()}
        progress(Event("Writing the adapter", total, total))
        self.parameters = sum(tensor.numel() for tensor in tensors.values())
        specs = [TensorSpec(n, t.dtype, tuple(t.shape)) for n, t in tensors.items()]
        with transaction.shard(WEIGHTS, specs) as writer:
            for name in writer.remaining:
                writer.write(name, tensors[name])
        config = adapter_config(
            self._kind,
            {self._module(path): self._rank(path) for path in self._linears},
            base=self._original.source.name,
            task_type=self._task(),
            fan_in_fan_out=any(one.map.transposed for one in self._linears.values()),
        )
        transaction.write_text(CONFIG, config_text(config))

    def _rank(self, path: str) -> int:
        entry = self._linears[path].entry
        return int(entry["reflections"] if self._kind == "HRA" else 2 * entry["rank"])

    def _hra(self, path: str) -> dict[str, Tensor]:
        linear = self._linears[path]
        self.errors[path] = 0.0
        return {"hra_u": self._stored.source.tensor(linear.parts["hra_u"]).float()}

    def _lora(self, path: str) -> dict[str, Tensor]:
        """Return A ``(2r, in)`` and B ``(out, 2r)``: what was trained minus what was split off."""
        linear = self._linears[path]
        part = {
            name: self._stored.source.tensor(stored).double()
            for name, stored in linear.parts.items()
        }
        if linear.method == "sorsa":
            left, right = part["sorsa_u"] * part["sorsa_s"], part["sorsa_vt"]
        else:
            left, right = part["pissa_b"], part["pissa_a"]
        before = _dense(self._original, linear.map)
        residual = _dense(self._stored, linear.map, raw=True)
        # What was split off need not be kept anywhere: the frozen weight is the original
        # without it, to the rounding of the frozen weight.
        seed = torch.Generator().manual_seed(0)
        first = truncated_svd(
            (before - residual).float(), right.shape[0], tolerance=TIGHT, generator=seed
        )
        b = torch.cat([linear.entry["scale"] * left, -(first.u * first.s).double()], dim=1)
        a = torch.cat([right, first.vt.double()])
        a, b = a.float().contiguous(), b.float().contiguous()
        merged = self._stored.merged(linear)
        difference = torch.linalg.vector_norm(before + b.double() @ a.double() - merged)
        self.errors[path] = float(difference / torch.linalg.vector_norm(merged))
        return {"lora_A": a, "lora_B": b}

    def _module(self, path: str) -> str:
        """Return how the model class that ``architectures`` names spells a module path."""
        from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

        claims, family = self._stored.claims, self._stored.family
        named = (self._stored.source.config.get("architectures") or [None])[0]
        bare = path.removeprefix(claims.prefix)
        if named == MODEL_MAPPING_NAMES.get(family.model_type):
            return bare
        return family.prefixes[0] + bare

    def _task(self) -> str | None:
        named = str((self._stored.source.config.get("architectures") or [""])[0])
        return next((task for end, task in TASKS.items() if named.endswith(end)), None)


def _dense(stored: Stored, one: LinearMap, *, raw: bool = False) -> Tensor:
    """Return a weight ``(out, in)`` in float64; ``raw`` without the small part merged in."""
    tensor = stored.source.tensor(one.weight) if raw else stored.tensor(one.weight)
    return (tensor.T if one.transposed else tensor).double()
