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
    ModelClass,
    Projection,
    StoredProjection,
)
from surgery.architectures.classes import (
    check_whole,
    class_of,
    expected,
    in_towers,
    matches,
    place,
    sizes,
)
from surgery.architectures.config import Config
from surgery.architectures.prefixes import find_prefix
from surgery.architectures.seams import closed_seams, foreign
from surgery.errors import CheckpointError


@dataclass(frozen=True)
class Claims:
    """Which role each tensor of a checkpoint plays; every tensor occurs exactly once.

    ``linears`` holds the roles of MLP tensors, several where maps are fused.
    ``model_class`` is transformers' class of the checkpoint, where the family's data lists any.
    """

    prefix: str
    sites: tuple[AttentionSite, ...]
    linears: Mapping[str, tuple[str, ...]]
    untouched: tuple[str, ...]
    towers: Mapping[str, tuple[str, ...]]
    model_class: ModelClass | None = None


def attention_sites(
    family: Architecture,
    config: Config,
    prefix: str,
    *,
    without: Collection[str] = (),
    where: str = "config.json",
) -> tuple[AttentionSite, ...]:
    """Return every attention block the configuration describes, in layer order.

    Those of towers that the model class lacks (``without``) aside: the configuration counts its
    layers all the same.

    Raises:
        CheckpointError: Head counts and widths contradict each other.
    """
    sites: list[AttentionSite] = []
    for kind in family.attentions:
        if in_towers(family, kind.path, without):
            continue
        heads, kv_heads, width, head_dim = _dimensions(kind, config, where)
        closed = closed_seams(family, kind, config)
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
                    between=_between(kind, config, layer, where),
                    causal=kind.causal,
                    q=_stored(path, kind.q, config, queries, width),
                    k=_stored(path, kind.k, config, keys, width),
                    v=_stored(path, kind.v, config, keys, width),
                    o=_stored(path, kind.o, config, width, queries),
                    closed=closed,
                )
            )
    return tuple(sites)


def _between(kind: AttentionKind, config: Config, layer: int, where: str) -> tuple[str, ...]:
    if kind.unless is None:
        return kind.between
    name, without = kind.unless
    entries = getattr(config, name, None)
    if not isinstance(entries, list) or len(entries) <= layer:
        raise CheckpointError(
            f"{name} does not say every layer",
            where=where,
            found=repr(entries),
            expected=f"a list with an entry for each of the {getattr(config, kind.layers)} layers",
        )
    return () if entries[layer] == without else kind.between


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
        transposed=projection.transposed,
        norm=None if projection.norm is None else f"{path}.{projection.norm}",
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
    wanted: dict[str, tuple[int, ...]] = {}
    for site in claims.sites:
        for role in ROLES:
            projection = site.projection(role)
            fused = sum(site.projection(each).out_features for each in site.fused(role))
            weight = (fused, projection.in_features)
            wanted[projection.weight] = weight[::-1] if projection.transposed else weight
            if projection.bias is not None:
                wanted[projection.bias] = (fused,)
    missing = [name for name in wanted if name not in shapes]
    for below, shape in expected(family, config, claims.model_class).items():
        name, known = place(below, claims.prefix), sizes(shape, config)
        if name in shapes and known is not None:  # those that are tied need not be there
            wanted[name] = known
    if missing:
        raise CheckpointError(
            f"Tensor {missing[0]} is missing",
            where=where,
            expected=f"shape {list(wanted[missing[0]])} by config.json",
            hint="the checkpoint is incomplete, or config.json is another model's",
        )
    for name, size in wanted.items():
        if tuple(shapes[name]) != size:
            raise CheckpointError(
                f"The shape of {name} contradicts config.json",
                where=where,
                found=f"shape {list(shapes[name])}",
                expected=f"shape {list(size)}",
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
    """
    prefix = find_prefix(family, names, where=where)
    one = class_of(family, config, names, prefix, where=where)
    sites = attention_sites(family, config, prefix, without=() if one is None else one.without)
    attention = {name for site in sites for name in site.tensors()}
    linears: dict[str, tuple[str, ...]] = {}
    untouched: list[str] = []
    for name in names:
        roles = tuple(
            role for role, globs in family.linears.items() if matches(name, globs, prefix)
        )
        rest = matches(name, (*family.untouched, *family.ignored), prefix)
        count = bool(roles) + rest + (name in attention)
        if count != 1:
            raise CheckpointError(
                f"Tensor {name} has {'no' if not count else 'more than one'} role in a "
                f"{family.title} model",
                where=where,
                expected="the tensors that config.json describes and no others",
                hint=foreign(name) or "remove the tensor, or describe it in the architecture file",
            )
        if roles:
            linears[name] = roles
        elif rest:
            untouched.append(name)
    check_whole(family, config, one, names, prefix, attention, where=where)
    return Claims(
        prefix=prefix,
        sites=sites,
        linears=linears,
        untouched=tuple(untouched),
        towers={
            tower: tuple(name for name in names if fnmatchcase(name, prefix + glob))
            for tower, glob in family.towers.items()
        },
        model_class=one,
    )
