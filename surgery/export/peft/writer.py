"""The tensors of a PEFT adapter, computed map by map from a checkpoint and its original."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from surgery.architectures import LinearMap
from surgery.architectures.base import BASE, CAUSAL
from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.writer import TensorSpec
from surgery.events import Event, Progress
from surgery.linalg import truncated_svd
from surgery.stored.parallel import map_ahead
from surgery.stored.peft_directory import CONFIG
from surgery.stored.peft_format import WEIGHTS, adapter_config, config_text, tensor_names
from surgery.stored.stored import Stored, TreatedLinear

TIGHT = 1e-8  # what was split off has its rank exactly, but for the rounding of the rest

TASKS = {CAUSAL: "CAUSAL_LM"}
"""PEFT's task by a model class's auto class; others are loaded without one."""


class AdapterWriter:
    """Computes an adapter map by map and writes it.

    Args:
        stored: The checkpoint.
        original: The model it was made from.
        linears: The maps to export, by path.
        kind: ``LORA`` or ``HRA``.
        place: What loads the original: a directory or a name.

    Attributes:
        errors: Relative Frobenius difference of each weight, by path, once written.
        parameters: Numbers in the adapter, once written.
    """

    def __init__(
        self,
        stored: Stored,
        original: Stored,
        linears: Mapping[str, TreatedLinear],
        kind: str,
        place: str,
    ) -> None:
        self._stored, self._original, self._place = stored, original, place
        self._linears, self._kind = linears, kind
        one = stored.claims.model_class
        self._autos = () if one is None else one.autos
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
            base=self._place,
            task_type=self._task(),
            fan_in_fan_out=any(one.map.transposed for one in self._linears.values()),
        )
        transaction.write_text(CONFIG, config_text(config))

    def _rank(self, path: str) -> int:
        entry = self._linears[path].entry
        return int(entry["reflections"] if self._kind == "HRA" else 2 * entry["rank"])

    def _hra(self, path: str) -> dict[str, Tensor]:
        linear = self._linears[path]
        before = _dense(self._original, linear.map)
        gone = before - _dense(self._stored, linear.map, raw=True)  # rounded, if anything
        self.errors[path] = float(gone.norm() / before.norm())
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
        gone, rank = before - residual, right.shape[0]
        first = truncated_svd(gone, rank, tolerance=TIGHT, generator=seed)
        b = torch.cat([linear.entry["scale"] * left, -first.u * first.s], dim=1)
        a = torch.cat([right, first.vt])
        a, b = a.float().contiguous(), b.float().contiguous()
        merged = self._stored.merged(linear)
        difference = torch.linalg.vector_norm(before + b.double() @ a.double() - merged)
        self.errors[path] = float(difference / torch.linalg.vector_norm(merged))
        return {"lora_A": a, "lora_B": b}

    def _module(self, path: str) -> str:
        """Return how the model class that ``architectures`` names spells a module path."""
        bare = path.removeprefix(self._stored.claims.prefix)
        return bare if BASE in self._autos else self._stored.family.prefixes[0] + bare

    def _task(self) -> str | None:
        return next((task for auto, task in TASKS.items() if auto in self._autos), None)


def _dense(stored: Stored, one: LinearMap, *, raw: bool = False) -> Tensor:
    """Return a weight ``(out, in)`` in float64; ``raw`` without the small part merged in."""
    tensor = stored.source.tensor(one.weight) if raw else stored.tensor(one.weight)
    return (tensor.T if one.transposed else tensor).double()
