"""Plan small parts for linear maps: which maps, checked before a weight is read."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from surgery.architectures import LINEAR_ROLES, LinearMap
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.writer import TensorSpec
from surgery.choices.parts import PARTS
from surgery.engine.asked import AskedFor
from surgery.engine.parts.linear_options import LinearOptions
from surgery.errors import CheckpointError, UsageError
from surgery.methods import Treatment
from surgery.runtime.parts import part_shapes
from surgery.stored.stored import Stored, output_dtype, read_stored


@dataclass(frozen=True)
class PartsPlan(ABC):
    """A checked checkpoint, and which of its maps get small parts.

    Attributes:
        stored: The checkpoint.
        asked: What the user called it.
        method: The method, by its name in ``config.json``.
        title: What is done, for the report's title.
        options: What was asked for.
        maps: The maps to treat.
    """

    stored: Stored
    asked: str
    method: str
    title: str
    options: AskedFor
    maps: tuple[LinearMap, ...]

    @abstractmethod
    def entry(self, path: str) -> dict[str, Any]:
        """Return what the runtime must know about a map to treat."""

    @property
    def source(self) -> TensorSource:
        """The checkpoint."""
        return self.stored.source

    def output_dtype(self, name: str) -> torch.dtype:
        """Return the dtype tensor ``name`` is written in; small parts stay as they are."""
        asked = None if name in self.stored.part_tensors else self.options.dtype
        return output_dtype(self.source, name, asked)

    def part_names(self, one: LinearMap) -> dict[str, tuple[int, ...]]:
        """Return name and shape of every tensor of a map's small part."""
        shapes = part_shapes(self.method, self.entry(one.path), one.out_features, one.in_features)
        return {f"{one.path}.{part}": shape for part, shape in shapes.items()}

    def specs(self) -> dict[str, list[TensorSpec]]:
        """Return every tensor of the result, by shard: parts stand behind their weights."""
        chosen = {one.weight: one for one in self.maps}
        result: dict[str, list[TensorSpec]] = {}
        for shard, names in self.source.shards.items():
            specs = result.setdefault(shard, [])
            for name in names:
                dtype = self.output_dtype(name)
                specs.append(TensorSpec(name, dtype, self.source.infos[name].shape))
                if name in chosen:
                    parts = self.part_names(chosen[name])
                    specs += [TensorSpec(n, torch.float32, shape) for n, shape in parts.items()]
        return result


@dataclass(frozen=True)
class LinearPlan(PartsPlan):
    """Maps that are treated one by one.

    Attributes:
        treatments: How each of them begins, by path.
        seed: Where randomness begins.
    """

    treatments: Mapping[str, Treatment]
    seed: int = 0

    def entry(self, path: str) -> dict[str, Any]:
        """Return what the runtime must know about a map to treat."""
        return self.treatments[path].entry()


def make_linear_plan(
    source: TensorSource, options: LinearOptions, asked: str | None = None
) -> LinearPlan:
    """Check a checkpoint, dense or pruned, and choose the maps to treat.

    Args:
        source: The checkpoint.
        options: The method and which maps.
        asked: What the user called the source, for commands to copy; default its name.

    Raises:
        CheckpointError: Shapes contradict the configuration, or a map was treated already.
        UsageError: No map is in scope, or one cannot be treated with these settings.
    """
    stored, asked = read_stored(source), asked or source.name
    maps = _chosen(stored, options)
    treatments = dict.fromkeys((one.path for one in maps), options.treatment)
    check_treatments(stored, treatments, asked)
    return LinearPlan(
        stored=stored,
        asked=asked,
        method=options.treatment.name,
        title=PARTS[options.treatment.name].title,
        options=options,
        maps=maps,
        treatments=treatments,
        seed=options.seed,
    )


def check_treatments(stored: Stored, treatments: Mapping[str, Treatment], asked: str) -> None:
    """Refuse maps that carry a small part already, or are too small for theirs.

    Raises:
        CheckpointError: A map was treated before.
        UsageError: A map cannot be treated with these settings.
    """
    refuse_treated(stored, treatments, asked, "--targets or --scope")
    for path, treatment in treatments.items():
        one = stored.maps[path]
        reason = treatment.check(one.out_features, one.in_features)
        if reason is not None:
            raise UsageError(
                f"{treatment.name} cannot treat this map: {reason}",
                where=one.path,
                found=f"a weight of {one.out_features} × {one.in_features}",
            )


def refuse_treated(stored: Stored, paths: Iterable[str], asked: str, flags: str) -> None:
    """Refuse maps that carry a small part already; ``flags`` are those that choose others.

    Raises:
        CheckpointError: One does.
    """
    for path in paths:
        if path in stored.linears:
            raise CheckpointError(
                "A linear map can carry one small part, and this one has it already",
                where=f"{stored.source.name}: {path}",
                found=stored.linears[path].method,
                hint=f"choose others with {flags}, or merge that part back first: "
                + shlex.join(["surgery", "merge", asked, "--steps", "1"]),
            )


def _chosen(stored: Stored, options: LinearOptions) -> tuple[LinearMap, ...]:
    """Return the maps in scope whose roles are asked for.

    Raises:
        UsageError: There is none, or a fused map is asked for in part.
    """
    everything = [one for one in stored.maps.values() if one.in_features and one.out_features]
    in_scope = [one for one in everything if options.scope in ("all", one.scope)]
    if not in_scope:
        raise UsageError(
            f"A {stored.family.title} model has no {options.scope} blocks",
            where="--scope",
            expected=", ".join(dict.fromkeys(one.scope for one in everything)) + ", all",
        )
    known = [role for role in LINEAR_ROLES if any(role in one.roles for one in in_scope)]
    usual = [role for role in options.treatment.usual_targets or () if role in known]
    targets = options.targets or usual or known
    missing = [target for target in targets if target not in known]
    if missing:
        raise UsageError(
            f"A {stored.family.title} model has no such linear map",
            where="--targets",
            found=", ".join(missing),
            expected=", ".join(known),
        )
    chosen = tuple(one for one in in_scope if set(one.roles) & set(targets))
    for one in chosen:
        if options.targets and not set(one.roles) <= set(targets):
            raise UsageError(
                f"A {stored.family.title} model stores {one.role} as one fused map",
                where="--targets",
                found=",".join(options.targets),
                expected=f"all of {one.role}, or none of them",
            )
    return chosen
