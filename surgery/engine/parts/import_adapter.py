"""Import: a PEFT adapter on its base model becomes a checkpoint of this package."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from surgery.checkpoint.resolve import resolve
from surgery.choices.places import model_name
from surgery.engine.parts.linear_plan import LinearPlan, check_treatments
from surgery.engine.parts.small_parts import SmallParts
from surgery.engine.result import default_output, produce
from surgery.errors import CheckpointError, UsageError
from surgery.events import Progress, ignore
from surgery.methods import Adopted
from surgery.report.model.report import Report
from surgery.runtime.spelling import spelled_in
from surgery.stored.peft_format import WEIGHTS, Adapter, read_adapter
from surgery.stored.peft_settings import check_complete
from surgery.stored.stored import Stored, read_stored

UNCHANGED = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Ways to start a LoRA that leave the base model's weights as they are."""


@dataclass(frozen=True)
class ImportOptions:
    """What is imported, in a form that can be compared and repeated."""

    command: ClassVar[str] = "import"

    adapter: str
    initial_adapter: str | None
    sha256: Mapping[str, str]
    dtype: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return the options as JSON values; directories by their names alone."""
        return {
            "adapter": Path(self.adapter).name,
            "initial_adapter": self.initial_adapter and Path(self.initial_adapter).name,
            "adapter_sha256": dict(self.sha256),
        }

    def words(self, *, shown: bool = False) -> list[str]:
        """Return the words that ask for the same; see :class:`surgery.engine.asked.AskedFor`."""
        called: Callable[[str], str] = model_name if shown else str
        words = ["--adapter", called(self.adapter)]
        if self.initial_adapter is not None:
            words += ["--initial-adapter", called(self.initial_adapter)]
        return words


def import_adapter(
    model: str | Path,
    adapter: str | Path,
    out: str | Path | None = None,
    *,
    initial_adapter: str | Path | None = None,
    data: str | Path | None = None,
    force: bool = False,
    resume: bool = False,
    revision: str | None = None,
    progress: Progress = ignore,
) -> Report:
    """Write a base model and a PEFT adapter as one checkpoint that computes the same.

    LoRA and PiSSA become a PiSSA part (``W + scale·B A``), HRA an HRA part. What PEFT would do
    with the base model on loading the adapter is done here: for ``init_lora_weights="pissa"``
    its best part of the adapter's rank is taken out of every weight first.

    Args:
        model: The base model, anything :func:`surgery.split` takes.
        adapter: Directory with ``adapter_config.json`` and ``adapter_model.safetensors``.
        out: Result directory; ``checkpoints/<name>-<method>`` by default.
        initial_adapter: The adapter as it was before training. Where it is given, its product is
            what the frozen weights lack, however it came about (PiSSA with a random SVD).
        data: Audio folder or text file to measure on, before and after.
        force: Replace a result that is in the way.
        resume: Go on from an interrupted run.
        revision: Hub revision.
        progress: Called with :class:`surgery.events.Event`.

    Raises:
        CheckpointError: The adapter cannot be read, or does not fit the model.
        UsageError: What it was started from cannot be repeated.
    """
    directory = Path(adapter)
    read = read_adapter(directory)
    first = None if initial_adapter is None else Path(initial_adapter)
    initial = None if first is None else read_adapter(first)
    if initial is not None and initial.kind != "LORA":
        raise UsageError("Only a LoRA has an initial adapter", where="--initial-adapter")
    options = ImportOptions(
        adapter=str(directory),
        initial_adapter=None if first is None else str(first),
        sha256={
            role: hashlib.sha256((path / WEIGHTS).read_bytes()).hexdigest()
            for role, path in (("adapter", directory), ("initial_adapter", first))
            if path is not None
        },
    )
    with resolve(str(model), revision=revision) as source:
        source.start_hashing()
        stored = read_stored(source)
        treatments = {
            _map_path(stored, path, directory): _adopted(read, path, initial, directory)
            for path in read.modules
        }
        check_complete(read.config, stored.maps, treatments, directory)
        check_treatments(stored, treatments, str(model))
        method = "hra" if read.kind == "HRA" else "pissa"
        plan = LinearPlan(
            stored=stored,
            asked=str(model),
            method=method,
            title=f"with an adapter of {directory.name}",
            options=options,
            maps=tuple(stored.maps[path] for path in stored.maps if path in treatments),
            treatments=treatments,
        )
        return produce(
            SmallParts(plan),
            Path(out) if out is not None else default_output(source, method),
            method=method,
            asked=str(model),
            data=data,
            force=force,
            resume=resume,
            progress=progress,
        )


def _map_path(stored: Stored, path: str, where: Path) -> str:
    """Return how the checkpoint spells a module path, with or without the family's prefix.

    Raises:
        CheckpointError: The model has no such linear map.
    """
    for prefix in stored.family.prefixes:
        found = spelled_in(stored.maps, path, prefix.removesuffix("."))
        if found is not None:
            return found
    raise CheckpointError(
        "The adapter belongs to a module that the model does not have",
        where=where,
        found=path,
        expected="one of " + ", ".join(list(stored.maps)[:3]) + ", …",
        hint="give the base model that the adapter was trained on",
    )


def _adopted(read: Adapter, path: str, initial: Adapter | None, where: Path) -> Adopted:
    parts = read.modules[path]
    if read.kind == "HRA":
        u = parts["hra_u"]
        if read.config.get("apply_GS"):
            u = _orthonormal(u)
        settings: dict[str, Any] = {"reflections": u.shape[1]}
        return Adopted("hra", settings, {"hra_u": u.contiguous()}, (None, u.shape[0]))
    a, b = parts["lora_A"], parts["lora_B"]
    principal, rank = None, None
    init = read.config.get("init_lora_weights", True)
    init = init.lower() if isinstance(init, str) else init
    if init == "loftq":
        raise UsageError(
            "The adapter belongs on quantised weights, which cannot be operated on",
            where=where,
            found="init_lora_weights = 'loftq'",
            hint="merge the adapter into the model with PEFT, and operate on that",
        )
    if initial is not None:
        if path not in initial.modules:
            raise CheckpointError("The initial adapter lacks a module", where=where, found=path)
        start = initial.modules[path]
        principal = initial.scale(path) * start["lora_B"], start["lora_A"]
    elif init == "pissa":
        rank = a.shape[0]
    elif init not in UNCHANGED:
        raise UsageError(
            "The adapter began with a change of the base model that cannot be repeated",
            where=where,
            found=f"init_lora_weights = {init!r}",
            expected="the adapter as it was before training, with --initial-adapter",
            hint="or save the changed base model with PEFT, set init_lora_weights to true in "
            "the adapter's configuration, and import onto that",
        )
    settings = {"rank": a.shape[0], "scale": read.scale(path)}
    tensors = {"pissa_a": a, "pissa_b": b}
    shape = (b.shape[0], a.shape[1])
    return Adopted("pissa", settings, tensors, shape, principal=principal, principal_rank=rank)


def _orthonormal(u: Tensor) -> Tensor:
    """Return the columns that Gram-Schmidt makes of ``u``, up to signs, which reflections drop."""
    q: Tensor = torch.linalg.qr(u.double()).Q
    return q.float()
