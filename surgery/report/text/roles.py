"""Linear maps by what they play: whatever a report tells of them, in the order of a model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol, TypeVar

_ROLES = ("q", "k", "v", "q,k,v", "k,v", "o", "gate", "up", "down")
_SCOPES = ("encoder", "decoder", "cross")


class Placed(Protocol):
    """Anything told of one linear map, which has a role, a scope and perhaps a layer."""

    @property
    def role(self) -> str:
        """What it plays: ``q``, ``up``, ..."""

    @property
    def scope(self) -> str:
        """Which tower or attention it belongs to."""

    @property
    def layer(self) -> int | None:
        """Its layer; ``None`` outside the layers."""


Map = TypeVar("Map", bound=Placed)


def by_role(maps: Iterable[Map]) -> dict[tuple[str, str], list[Map]]:
    """Return the maps of each ``(scope, role)`` in layer order.

    Scopes come as a model runs, roles in the order of the computation: attention, then the MLP.
    """
    found: dict[str, dict[str, list[Map]]] = {}
    for one in maps:
        found.setdefault(one.scope, {}).setdefault(one.role, []).append(one)

    def place(role: str) -> int:
        return _ROLES.index(role) if role in _ROLES else len(_ROLES)

    def stage(scope: str) -> int:
        return _SCOPES.index(scope) if scope in _SCOPES else len(_SCOPES)

    return {
        (scope, role): sorted(roles[role], key=layer_order)
        for scope, roles in sorted(found.items(), key=lambda item: stage(item[0]))
        for role in sorted(roles, key=place)
    }


def layer_order(one: Placed) -> float:
    """Return where a map comes in layer order: what is outside the layers comes last."""
    return math.inf if one.layer is None else one.layer


def known(maps: Iterable[Placed], name: str) -> list[float]:
    """Return the values of one figure (``captured``, ``defect``, ...) where there is one."""
    values = (getattr(one, name) for one in maps)
    return [float(value) for value in values if value is not None]


def worst(maps: Iterable[Map], name: str) -> tuple[float, Map] | None:
    """Return the largest of one figure and the map it belongs to; NaN is worse than any."""
    pairs = [(float(value), one) for one in maps if (value := getattr(one, name)) is not None]
    if not pairs:
        return None
    return max(pairs, key=lambda pair: (math.isnan(pair[0]), pair[0]))


def place_text(one: Placed) -> str:
    """Name a map in few words: ``encoder up, layer 3``."""
    where = f"{one.scope} {one.role}"
    return where if one.layer is None else f"{where}, layer {one.layer}"
