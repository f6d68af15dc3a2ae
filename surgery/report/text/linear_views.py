"""Views of linear maps with small trainable parts: groups, totals, and the worst."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from surgery.report.model.report import LinearReport, Quantity, Report
from surgery.report.text.roles import by_role


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
    """Return the maps by scope, and role: attention first, then the MLP."""
    return [RoleGroup(*key, linears) for key, linears in by_role(report.linears).items()]


def groups_by_scope(report: Report) -> dict[str, list[RoleGroup]]:
    """Return the groups of :func:`role_groups`, by scope."""
    scopes: dict[str, list[RoleGroup]] = {}
    for group in role_groups(report):
        scopes.setdefault(group.scope, []).append(group)
    return scopes


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
