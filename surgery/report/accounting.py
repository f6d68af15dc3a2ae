"""From shapes and ranks to parameters and tensors: counting, and nothing else.

Every figure is a pure function of the architecture's description and of tensor shapes, so
that what a plan predicts and what a run reports come from the same lines. *Stored* is what the
file holds, *executed* what a forward pass multiplies by. Bytes and FLOPs are in ``costs``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod

from surgery.architectures.base import ROLES, AttentionSite, Role
from surgery.architectures.ranks import SiteRanks, full_ranks
from surgery.report.model.report import Saving

TensorInfo = tuple[tuple[int, ...], int]
"""Shape of a stored tensor, and its bytes per element."""


def projection_widths(site: AttentionSite, ranks: SiteRanks) -> dict[Role, int]:
    """Return each projection's packed width: query heads repeat their key/value head's rank."""
    qk, vo = sum(ranks.qk), sum(ranks.vo)
    return {"q": site.groups * qk, "k": qk, "v": vo, "o": site.groups * vo}


def executed_parameters(site: AttentionSite, ranks: SiteRanks) -> int:
    """Return the parameters a forward pass multiplies by: exactly those stored.

    The runtime keeps projections and caches packed, and pads only the activations between
    them; its FLOPs are counted by :func:`surgery.report.costs.attention_flops`.
    """
    return site_parameters(site, ranks)


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


def _count(infos: Mapping[str, TensorInfo], names: Iterable[str]) -> int:
    return sum(prod(infos[name][0]) for name in names)


def savings(
    sites: Sequence[AttentionSite],
    ranks: Mapping[str, SiteRanks],
    before: Mapping[str, TensorInfo],
    after: Mapping[str, TensorInfo],
    towers: Mapping[str, Collection[str]],
) -> list[Saving]:
    """Count parameters in every denominator: attention in scope, its towers, the model.

    Args:
        sites: Attention blocks in scope of the surgery.
        ranks: Kept ranks after it, by ``site.path``; a missing block counts as untouched.
        before: Every tensor of the checkpoint before.
        after: Every tensor of the checkpoint after, under the same names.
        towers: Tensor names of each tower; towers without a block in ``sites`` are left out.

    Returns:
        ``attention``, one entry a tower that was cut, and ``model``.
    """
    attention = list(dict.fromkeys(name for site in sites for name in site.tensors()))
    padding: dict[str, int] = {}
    for site in sites:
        kept = ranks.get(site.path, full_ranks(site))
        padding[site.path] = executed_parameters(site, kept) - site_parameters(site, kept)

    def saving(name: str, title: str, names: Collection[str]) -> Saving:
        members = set(names)
        stored = _count(after, names)
        extra = sum(padding[site.path] for site in sites if site.q.weight in members)
        return Saving(name, title, _count(before, names), stored, stored + extra)

    result = [saving("attention", "Attention in scope (Q, K, V, O)", attention)]
    for tower, names in towers.items():
        if not set(names).isdisjoint(attention):
            result.append(saving(tower, tower.capitalize(), names))
    result.append(saving("model", "Whole model", list(before)))
    return result
