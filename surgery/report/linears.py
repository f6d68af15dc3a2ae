"""Views of linear maps with small trainable parts: groups, totals, and the worst."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from surgery.report.model import LinearReport, Quantity, Report

_ROLES = ("q", "k", "v", "q,k,v", "k,v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class RoleGroup:
    """The linear maps that play one role in one scope, in layer order."""

    scope: str
    role: str
    linears: list[LinearReport]


def is_linear(report: Report) -> bool:
    """Whether the report is about linear maps with small trainable parts."""
    return bool(report.linears) or report.trainable is not None


def role_groups(report: Report) -> list[RoleGroup]:
    """Return the maps by scope, as they occur, and role: attention first, then the MLP."""
    found: dict[str, dict[str, list[LinearReport]]] = {}
    for linear in report.linears:
        found.setdefault(linear.scope, {}).setdefault(linear.role, []).append(linear)

    def place(role: str) -> int:
        return _ROLES.index(role) if role in _ROLES else len(_ROLES)

    return [
        RoleGroup(scope, role, sorted(roles[role], key=_layer))
        for scope, roles in found.items()
        for role in sorted(roles, key=place)
    ]


def groups_by_scope(report: Report) -> dict[str, list[RoleGroup]]:
    """Return the groups of :func:`role_groups`, by scope."""
    scopes: dict[str, list[RoleGroup]] = {}
    for group in role_groups(report):
        scopes.setdefault(group.scope, []).append(group)
    return scopes


def _layer(linear: LinearReport) -> float:
    return math.inf if linear.layer is None else linear.layer


def known(linears: Iterable[LinearReport], name: str) -> list[float]:
    """Return the values of one figure (``captured``, ``defect``, ...) where there is one."""
    values = (getattr(linear, name) for linear in linears)
    return [float(value) for value in values if value is not None]


def worst(linears: Iterable[LinearReport], name: str) -> tuple[float, LinearReport] | None:
    """Return the largest of one figure and the map it belongs to; NaN is worse than any."""
    pairs = [
        (float(value), linear) for linear in linears if (value := getattr(linear, name)) is not None
    ]
    if not pairs:
        return None
    return max(pairs, key=lambda pair: (math.isnan(pair[0]), pair[0]))


def weights_of(linears: Iterable[LinearReport]) -> int:
    """Return the parameters of the dense weights of some maps."""
    return sum(linear.out_features * linear.in_features for linear in linears)


def trainable_of(linears: Iterable[LinearReport]) -> int:
    """Return the numbers in the small parts of some maps."""
    return sum(linear.trainable for linear in linears)


def byte_rows(report: Report) -> list[Quantity]:
    """Return what a table of bytes and FLOPs holds; weight bytes once, however given."""
    others = [one for one in report.quantities if one.name != "disk_bytes"]
    total = report.trainable
    if total is None:
        return report.quantities
    disk = Quantity("disk_bytes", "Weights on disk", "bytes", total.bytes_before, total.bytes_after)
    return [disk, *others]
