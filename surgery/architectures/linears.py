"""The linear maps of a checkpoint: attention projections and MLP maps, one entry a stored weight.

Fused projections (GPT-2's ``c_attn``) are one map, as they are one module at run time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from surgery.architectures.base import ROLES, Architecture, Scope
from surgery.architectures.sites import Claims
from surgery.errors import CheckpointError

LINEAR_ROLES = ("q", "k", "v", "o", "gate", "up", "down")
"""Every role a linear map can play, in the order a block computes them."""


@dataclass(frozen=True)
class LinearMap:
    """One linear map of one checkpoint, at the shape it is stored at.

    Attributes:
        path: Path of its module, as the checkpoint spells it.
        weight: Name of its weight tensor.
        roles: What it plays; several where projections are fused.
        scope: The attention it belongs to (``encoder``, ``decoder``, ``cross``); of an MLP map
            its tower.
        layer: Its layer.
        out_features: Outputs as stored: fewer than the configuration's where it was pruned.
        in_features: Inputs as stored.
        transposed: Stored ``(in, out)`` as in GPT-2's ``Conv1D`` instead of ``(out, in)``.
    """

    path: str
    weight: str
    roles: tuple[str, ...]
    scope: Scope
    layer: int
    out_features: int
    in_features: int
    transposed: bool = False

    @property
    def role(self) -> str:
        """What it plays, as one word: ``q``, or ``q,k,v`` where these are fused."""
        return ",".join(self.roles)


def linear_maps(
    family: Architecture, claims: Claims, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[LinearMap, ...]:
    """Return every linear map that surgery can treat, in the order of ``shapes``.

    Args:
        family: The family.
        claims: Roles of the checkpoint's tensors.
        shapes: Every tensor's shape as stored.

    Raises:
        CheckpointError: The weight of a map is no matrix.
    """
    maps: dict[str, LinearMap] = {}

    def add(name: str, role: str, scope: Scope, layer: int, transposed: bool) -> None:
        roles = (*maps[name].roles, role) if name in maps else (role,)
        shape = shapes[name]
        if 0 in shape:  # nothing is left of it to be treated
            return
        if len(shape) != 2:
            raise CheckpointError(
                f"Tensor {name} is no matrix",
                found=f"shape {list(shape)}",
                expected="the weight of a linear map",
                hint="fetch the checkpoint again, or convert it anew",
            )
        rows, columns = shape[::-1] if transposed else shape
        path = name.removesuffix(".weight")
        maps[name] = LinearMap(path, name, roles, scope, layer, rows, columns, transposed)

    for site in claims.sites:
        for role in ROLES:
            projection = site.projection(role)
            add(projection.weight, role, site.scope, site.layer, projection.transposed)
    transposed = family.attentions[0].o.transposed  # a family stores all its maps one way
    for name, roles in claims.linears.items():
        for one in roles if name.endswith(".weight") else ():
            add(name, one, tower_of(claims, name), layer_of(name), transposed)
    return tuple(maps[name] for name in shapes if name in maps)


def tower_of(claims: Claims, name: str) -> Scope:
    """Return the tower that an MLP tensor is in."""
    scopes = {site.scope for site in claims.sites}
    for tower, names in claims.towers.items():
        if name in names and tower in scopes:
            return "encoder" if tower == "encoder" else "decoder"
    return claims.sites[0].scope


def layer_of(name: str) -> int:
    """Return the layer that a tensor is of, by its name."""
    return next(int(word) for word in name.split(".") if word.isdigit())
