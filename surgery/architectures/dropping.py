"""Whole layers that leave a stack: which tensors go, what the others are called, what configs say.

A layer that goes is skipped: what it was given is what the layer behind it is given. The layers
that stay are numbered anew, first to last, and whatever speaks of a layer by its number follows:
names of tensors, counts, lists with an entry a layer, alignment heads. What speaks of layers in a
way that nothing here knows is refused, since it would be left behind silently.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from surgery.architectures.base import Architecture, AttentionKind, LayerKey, Scope
from surgery.architectures.classes import in_towers
from surgery.architectures.sites import Claims
from surgery.errors import CheckpointError, UsageError, first_few

Dropped = Mapping[Scope, Collection[int]]
"""By tower the layers that go."""

OTHER_LISTS = ("_id", "_ids", "_tokens", "architectures", "id2label", "label2id")
"""How keys end whose lists and tables have nothing to do with layers, however long they are."""


@dataclass(frozen=True, order=True)
class Layer:
    """One layer of one tower: ``encoder`` or ``decoder``."""

    scope: Scope
    layer: int

    def __str__(self) -> str:
        """Return it as the command line spells it."""
        return f"{self.scope}:{self.layer}"


def towers(family: Architecture, config: Any, without: Collection[str] = ()) -> dict[Scope, int]:
    """Return how many layers each tower has, but for towers that the model class lacks."""
    return {
        kind.scope: int(getattr(config, kind.layers))
        for kind in _stacks(family)
        if not in_towers(family, kind.path, without)
    }


def layers_of(family: Architecture, config: Any, claims: Claims) -> list[Layer]:
    """Return every layer of a checkpoint, tower by tower."""
    without = () if claims.model_class is None else claims.model_class.without
    counted = towers(family, config, without)
    return [Layer(scope, layer) for scope, count in counted.items() for layer in range(count)]


def by_tower(layers: Iterable[Layer]) -> dict[Scope, tuple[int, ...]]:
    """Return layers by tower, each tower's in order."""
    found: dict[Scope, set[int]] = {}
    for one in layers:
        found.setdefault(one.scope, set()).add(one.layer)
    return {scope: tuple(sorted(numbers)) for scope, numbers in found.items()}


def stack_path(family: Architecture, scope: Scope) -> str:
    """Return where a tower's layers are, below the prefix: ``layers``, ``encoder.layer``."""
    kind = next(kind for kind in _stacks(family) if kind.scope == scope)
    return kind.path.partition(".{layer}")[0]


def check_dropped(have: Collection[Layer], dropped: Collection[Layer], *, where: str) -> None:
    """Refuse layers that are not there, and towers of which nothing would stay.

    Raises:
        UsageError: Says which.
    """
    unknown = sorted(set(dropped) - set(have))
    counts = {scope: sum(one.scope == scope for one in have) for scope in by_tower(have)}
    if unknown:
        raise UsageError(
            "There is no such layer",
            where=where,
            found=first_few(list(map(str, unknown)), 3),
            expected=" or ".join(f"{scope}:0 … {n - 1}" for scope, n in counts.items()),
        )
    for scope, numbers in by_tower(dropped).items():
        if len(numbers) == counts[scope]:
            raise UsageError(
                f"Nothing would stay of the {scope}",
                where=where,
                found=f"all of its {counts[scope]} layers are to go",
                expected="at least one that stays",
            )


def renamed(family: Architecture, prefix: str, name: str, dropped: Dropped) -> str | None:
    """Return what a tensor or module is called once layers have left; ``None`` if it went, too."""
    for scope, gone in dropped.items():
        start = f"{prefix}{stack_path(family, scope)}."
        number, dot, rest = name.removeprefix(start).partition(".")
        if name.startswith(start) and number.isdigit():
            layer = int(number)
            if layer in gone:
                return None
            return f"{start}{layer - _below(gone, layer)}{dot}{rest}"
    return name


def shallower(
    family: Architecture, raw: Mapping[str, Any], config: Any, dropped: Dropped, *, where: str
) -> dict[str, Any]:
    """Return ``config.json`` once layers have left.

    Args:
        family: The family.
        raw: The parsed file.
        config: The same, as the family reads it.
        dropped: The layers that go.
        where: The file's name, for messages.

    Raises:
        CheckpointError: A key speaks of single layers, and nothing here knows how.
    """
    made = dict(raw)
    for kind in _stacks(family):
        gone = dropped.get(kind.scope, ())
        if not gone:
            continue
        count = int(getattr(config, kind.layers))
        key = family.aliases.get(kind.layers, kind.layers)
        same = {kind.layers, *(name for name, to in family.aliases.items() if to == key)}
        for name in (key, *sorted(same & raw.keys())):
            made[name] = count - len(gone)
        _refuse_unknown(family, raw, kind.scope, count, {key, *same}, where)
    return _renumbered(family, made, config, dropped, where)


def renumbered(
    family: Architecture, raw: Mapping[str, Any], dropped: Dropped, *, where: str
) -> dict[str, Any]:
    """Return ``generation_config.json`` once layers have left; a list of which none is left goes.

    Raises:
        CheckpointError: A key holds what it never holds.
    """
    return _renumbered(family, raw, None, dropped, where)


def _stacks(family: Architecture) -> list[AttentionKind]:
    """Return one kind of attention a tower."""
    return [kind for kind in family.attentions if kind.scope != "cross"]


def _below(gone: Collection[int], layer: int) -> int:
    return sum(one < layer for one in gone)


def _renumbered(
    family: Architecture, raw: Mapping[str, Any], config: Any, dropped: Dropped, where: str
) -> dict[str, Any]:
    made = dict(raw)
    for key, (scope, how) in family.by_layer.items():
        gone = dropped.get(scope, ())
        # an absent key that means something is a bound that moves all the same
        value = raw.get(key, None if config is None else getattr(config, key, None))
        if not gone or not value:
            continue
        try:
            new = _moved(how, value, gone)
        except (TypeError, ValueError, KeyError):
            raise CheckpointError(
                f"{key} speaks of single layers in a way that nothing here knows",
                where=where,
                found=f"{key} = {value!r}",
                hint="drop no layers of this model",
            ) from None
        if new is None:
            made.pop(key, None)
        else:
            made[key] = new
    return made


def _moved(how: LayerKey, value: Any, gone: Collection[int]) -> Any:
    if how == "list":
        return [entry for layer, entry in enumerate(value) if layer not in gone]
    if how == "bound":
        return int(value) - _below(gone, int(value))
    if how == "pairs":
        return [
            [layer - _below(gone, layer), *rest] for layer, *rest in value if layer not in gone
        ] or None
    raise ValueError  # layers compute with their numbers


def _refuse_unknown(
    family: Architecture,
    raw: Mapping[str, Any],
    scope: Scope,
    count: int,
    counts: Collection[str],
    where: str,
) -> None:
    """Refuse lists and tables that seem to have an entry a layer, and are not known."""
    for key, value in raw.items():
        known = key in counts or key in family.by_layer or key == "surgery"
        if known or key.endswith(OTHER_LISTS) or not isinstance(value, list | dict) or not value:
            continue
        numbered = isinstance(value, dict) and all(str(each).isdigit() for each in value)
        if numbered or "layer" in key or (isinstance(value, list) and len(value) == count):
            raise CheckpointError(
                f"{key} may speak of single layers of the {scope}, and nothing here knows how",
                where=where,
                found=f"{len(value)} entries, with {count} layers",
                expected="; ".join(["none, or one of", *family.by_layer]),
                hint="drop no layers of this model, or take the key out where nothing needs it",
            )
