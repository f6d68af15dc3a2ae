"""From shapes and ranks to parameters and tensors: counting, and nothing else.

Every figure is a pure function of the architecture's description and of tensor shapes, so
that what a plan predicts and what a run reports come from the same lines. Bytes and FLOPs are in
``costs``: a forward pass multiplies by what is stored, and pads only the activations in between.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod

from surgery.architectures.base import ROLES, AttentionSite, Role
from surgery.checkpoint.source import TensorSource
from surgery.report.model.report import Saving, Source
from surgery.runtime.heads import SiteRanks

TensorInfo = tuple[tuple[int, ...], int]
"""Shape of a stored tensor, and its bytes per element."""


def full_ranks(site: AttentionSite) -> SiteRanks:
    """Return the ranks of an untouched block: the head dimension everywhere."""
    full = (site.head_dim,) * site.kv_heads
    return SiteRanks(qk=full, vo=full)


def projection_widths(site: AttentionSite, ranks: SiteRanks) -> dict[Role, int]:
    """Return each projection's packed width: query heads repeat their key/value head's rank."""
    qk, vo = sum(ranks.qk), sum(ranks.vo)
    return {"q": site.groups * qk, "k": qk, "v": vo, "o": site.groups * vo}


def projection_shape(site: AttentionSite, role: Role, width: int) -> tuple[int, int]:
    """Return ``(out, in)`` of a projection whose head side has ``width`` rows or columns."""
    stored = site.projection(role)
    if role == "o":
        return stored.out_features, width
    return width, stored.in_features


def site_parameters(site: AttentionSite, ranks: SiteRanks) -> int:
    """Return the number of q, k, v and o parameters, biases included, at ``ranks``."""
    total = 0
    for role, width in projection_widths(site, ranks).items():
        rows, columns = projection_shape(site, role, width)
        total += rows * columns + (rows if site.projection(role).bias is not None else 0)
    return total


def restructured(
    infos: Mapping[str, TensorInfo],
    sites: Iterable[AttentionSite],
    ranks: Mapping[str, SiteRanks],
) -> dict[str, TensorInfo]:
    """Predict the tensors of a checkpoint after surgery.

    Args:
        infos: Every tensor of the checkpoint before.
        sites: Attention blocks; those without an entry in ``ranks`` stay as they are.
        ranks: Kept ranks, by ``site.path``.

    Returns:
        ``infos`` with the shapes of restructured projections replaced.
    """
    after = dict(infos)
    for site in sites:
        if site.path not in ranks:
            continue
        widths = projection_widths(site, ranks[site.path])
        rows: dict[str, int] = {}
        for role in ROLES:
            stored = site.projection(role)
            out, columns = projection_shape(site, role, widths[role])
            # fused maps lie side by side along the output dimension
            rows[stored.weight] = rows.get(stored.weight, 0) + out
            shape = (rows[stored.weight], columns)
            after[stored.weight] = (
                shape[::-1] if stored.transposed else shape,
                infos[stored.weight][1],
            )
            if stored.bias is not None:
                after[stored.bias] = ((rows[stored.weight],), infos[stored.bias][1])
    return after


def told_source(source: TensorSource, dtype: str, sha256: Mapping[str, str]) -> Source:
    """Return what a report says of a checkpoint that was operated on."""
    model_type = source.config["model_type"]
    return Source(source.name, source.name, model_type, dict(sha256), dtype)


def _count(infos: Mapping[str, TensorInfo], names: Iterable[str]) -> int:
    return sum(prod(infos[name][0]) for name in names)


def savings(
    sites: Sequence[AttentionSite],
    before: Mapping[str, TensorInfo],
    after: Mapping[str, TensorInfo],
    towers: Mapping[str, Collection[str]],
) -> list[Saving]:
    """Count parameters in every denominator: attention in scope, its towers, the model.

    Args:
        sites: Attention blocks in scope of the surgery.
        before: Every tensor of the checkpoint before.
        after: Every tensor of the checkpoint after, under the same names.
        towers: Tensor names of each tower; towers without a block in ``sites`` are left out.

    Returns:
        ``attention``, one entry a tower that was cut, and ``model``.
    """
    attention = list(dict.fromkeys(name for site in sites for name in site.tensors()))

    def saving(name: str, title: str, names: Collection[str]) -> Saving:
        stored = _count(after, names)
        return Saving(name, title, _count(before, names), stored, stored)

    result = [saving("attention", "Attention in scope (Q, K, V, O)", attention)]
    for tower, names in towers.items():
        if not set(names).isdisjoint(attention):
            result.append(saving(tower, tower.capitalize(), names))
    result.append(saving("model", "Whole model", list(before)))
    return result
