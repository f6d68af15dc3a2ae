"""From a family and a configuration to concrete attention blocks, and a claim on every tensor."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from surgery.architectures.base import (
    ROLES,
    Architecture,
    AttentionKind,
    AttentionSite,
    Projection,
    StoredProjection,
)
from surgery.architectures.config import Config
from surgery.architectures.registry import refuse_inexact_tensors
from surgery.errors import CheckpointError


@dataclass(frozen=True)
class Claims:
    """Which role each tensor of a checkpoint plays; every tensor occurs exactly once."""

    prefix: str
    sites: tuple[AttentionSite, ...]
    linears: Mapping[str, str]
    untouched: tuple[str, ...]
    towers: Mapping[str, tuple[str, ...]]


def find_prefix(family: Architecture, names: Collection[str], *, where: str) -> str:
    """Return the tensor-name prefix this checkpoint of ``family`` carries.

    Raises:
        CheckpointError: No attention tensor is found under any known prefix.
    """
    kind = family.attentions[0]
    probe = f"{kind.path.format(layer=0)}.{kind.q.module}.weight"
    for prefix in family.prefixes:
        if prefix + probe in names:
            return prefix
    raise CheckpointError(
        f"No {family.title} attention found in this checkpoint",
        where=where,
        found=", ".join(sorted(names)[:3]) + ", …",
        expected=family.prefixes[0] + probe,
        hint="config.json and the weights seem to belong to different models",
    )


def attention_sites(
    family: Architecture, config: Config, prefix: str, *, where: str = "config.json"
) -> tuple[AttentionSite, ...]:
    """Return every attention block the configuration describes, in layer order.

    Raises:
        CheckpointError: Head counts and widths contradict each other.
    """
    sites: list[AttentionSite] = []
    for kind in family.attentions:
        heads, kv_heads, width, head_dim = _dimensions(kind, config, where)
        for layer in range(int(getattr(config, kind.layers))):
            path = prefix + kind.path.format(layer=layer)
            queries, keys = heads * head_dim, kv_heads * head_dim
            sites.append(
                AttentionSite(
                    path=path,
                    scope=kind.scope,
                    layer=layer,
                    heads=heads,
                    kv_heads=kv_heads,
                    head_dim=head_dim,
                    width=width,
                    between=kind.between,
                    causal=kind.causal,
                    q=_stored(path, kind.q, config, queries, width),
                    k=_stored(path, kind.k, config, keys, width),
                    v=_stored(path, kind.v, config, keys, width),
                    o=_stored(path, kind.o, config, width, queries),
                )
            )
    return tuple(sites)


def _dimensions(kind: AttentionKind, config: Config, where: str) -> tuple[int, int, int, int]:
    heads = int(getattr(config, kind.heads))
    kv_heads = int(getattr(config, kind.kv_heads, None) or heads)
    width = int(getattr(config, kind.width))
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise CheckpointError(
            "Query heads are not a multiple of key/value heads",
            where=where,
            found=f"{kind.heads} = {heads}, {kind.kv_heads} = {kv_heads}",
        )
    given = getattr(config, kind.head_dim, None)
    if given is None and width % heads:
        raise CheckpointError(
            "The model width is not a multiple of the head count",
            where=where,
            found=f"{kind.width} = {width}, {kind.heads} = {heads}",
        )
    return heads, kv_heads, width, int(given) if given is not None else width // heads


def _stored(
    path: str, projection: Projection, config: Config, out_features: int, in_features: int
) -> StoredProjection:
    has_bias = projection.bias
    if isinstance(has_bias, str):
        has_bias = bool(getattr(config, has_bias, False))
    module = f"{path}.{projection.module}"
    return StoredProjection(
        weight=f"{module}.weight",
        bias=f"{module}.bias" if has_bias else None,
        out_features=out_features,
        in_features=in_features,
        part=projection.part,
        parts=projection.parts,
        transposed=projection.transposed,
    )


def check_shapes(
    family: Architecture,
    config: Config,
    claims: Claims,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    where: str,
) -> None:
    """Compare the shapes of a dense checkpoint with what the configuration implies.

    Every attention tensor, and the other large weights whose attributes the configuration has.

    Raises:
        CheckpointError: A tensor is missing, or has another shape.
    """
    expected: dict[str, tuple[int, ...]] = {}
    for site in claims.sites:
        for role in ROLES:
            projection = site.projection(role)
            fused = projection.out_features * projection.parts
            weight = (fused, projection.in_features)
            expected[projection.weight] = weight[::-1] if projection.transposed else weight
            if projection.bias is not None:
                expected[projection.bias] = (fused,)
    for glob, attributes in family.shapes.items():
        values = [getattr(config, attribute, None) for attribute in attributes]
        sizes = tuple(value for value in values if isinstance(value, int))
        if len(sizes) == len(values):
            matching = [name for name in shapes if fnmatchcase(name, claims.prefix + glob)]
            expected |= dict.fromkeys(matching, sizes)
    for name, shape in expected.items():
        if name not in shapes:
            raise CheckpointError(
                f"Tensor {name} is missing",
                where=where,
                expected=f"shape {list(shape)} by config.json",
                hint="the checkpoint is incomplete, or config.json is another model's",
            )
        if tuple(shapes[name]) != shape:
            raise CheckpointError(
                f"The shape of {name} contradicts config.json",
                where=where,
                found=f"shape {list(shapes[name])}",
                expected=f"shape {list(shape)}",
                hint="use the config.json that belongs to these weights",
            )


def claim(
    family: Architecture,
    config: Config,
    names: Collection[str],
    *,
    where: str = "checkpoint",
) -> Claims:
    """Give every tensor exactly one role: attention, MLP map, or untouched.

    Args:
        family: The family.
        config: The parsed configuration.
        names: Every tensor name of the checkpoint.
        where: The checkpoint's name, for messages.

    Raises:
        CheckpointError: A tensor has no role or two, or an attention tensor is missing.
        UnsupportedModelError: A tensor betrays a part that makes the surgery inexact.
    """
    prefix = find_prefix(family, names, where=where)
    refuse_inexact_tensors(family, list(names), where=where)
    sites = attention_sites(family, config, prefix)
    attention = {name for site in sites for name in site.tensors()}
    linears: dict[str, str] = {}
    untouched: list[str] = []
    for name in names:
        roles = [role for role, globs in family.linears.items() if _matches(name, globs, prefix)]
        rest = _matches(name, family.untouched, prefix)
        count = len(roles) + rest + (name in attention)
        if count != 1:
            raise CheckpointError(
                f"Tensor {name} has {'no' if not count else 'more than one'} role in a "
                f"{family.title} model",
                where=where,
                expected="the tensors that config.json describes and no others",
                hint="remove the tensor, or describe it in the architecture file",
            )
        if roles:
            linears[name] = roles[0]
        elif rest:
            untouched.append(name)
    return Claims(
        prefix=prefix,
        sites=sites,
        linears=linears,
        untouched=tuple(untouched),
        towers={
            tower: tuple(name for name in names if fnmatchcase(name, prefix + glob))
            for tower, glob in family.towers.items()
        },
    )


def _matches(name: str, globs: Collection[str], prefix: str) -> bool:
    return any(
        fnmatchcase(name, glob[1:] if glob.startswith("/") else prefix + glob) for glob in globs
    )
