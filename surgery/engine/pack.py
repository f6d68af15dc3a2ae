"""Between stored tensors and heads: how a checkpoint's q, k, v and o become per-head factors.

Stored tensors hold the kept vectors of all heads one after the other, ragged where ranks
differ. In memory every head has its full d rows, zero beyond its rank: dense weights are the
special case of full ranks, and merging a pruned block is reading it and writing it dense.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from surgery.architectures.base import ROLES, AttentionSite, Role
from surgery.architectures.ranks import SiteRanks, full_ranks
from surgery.methods import AttentionWeights


def vectors(site: AttentionSite, ranks: SiteRanks, role: Role) -> list[int]:
    """Return how many vectors each head of ``role`` stores, in storage order."""
    kept = ranks.qk if role in ("q", "k") else ranks.vo
    repeat = site.groups if role in ("q", "o") else 1
    return [rank for rank in kept for _ in range(repeat)]


def read_site(
    tensor: Callable[[str], Tensor],
    site: AttentionSite,
    ranks: SiteRanks | None = None,
    dtype: torch.dtype = torch.float64,
) -> AttentionWeights:
    """Read one block into per-head factors.

    Args:
        tensor: Returns a stored tensor by name.
        site: The block.
        ranks: Ranks it is stored at; full when ``None``.
        dtype: Computing dtype.
    """
    ranks = ranks or full_ranks(site)
    kv, g = site.kv_heads, site.groups

    def rows(role: Role) -> Tensor:
        """(heads, d, width), zero beyond each head's rank."""
        stored = _part(tensor(site.projection(role).weight), site, role, ranks)
        if site.projection(role).transposed:
            stored = stored.T
        if role == "o":
            stored = stored.T
        return _unpack(stored.to(dtype), vectors(site, ranks, role), site.head_dim)

    def bias(role: Role) -> Tensor | None:
        name = site.projection(role).bias
        if name is None:
            return None
        stored = tensor(name)
        if role == "o":
            return stored.to(dtype)
        stored = _part(stored, site, role, ranks)
        return _unpack(
            stored.to(dtype)[:, None], vectors(site, ranks, role), site.head_dim
        ).squeeze(-1)

    q_bias = bias("q")
    return AttentionWeights(
        q=torch.unflatten(rows("q"), 0, (kv, g)),
        k=rows("k"),
        v=rows("v"),
        o=torch.unflatten(rows("o"), 0, (kv, g)),
        q_bias=None if q_bias is None else torch.unflatten(q_bias, 0, (kv, g)),
        k_bias=bias("k"),
        v_bias=bias("v"),
        o_bias=bias("o"),
    )


def write_site(
    weights: AttentionWeights, site: AttentionSite, ranks: SiteRanks
) -> dict[str, Tensor]:
    """Return the stored tensors of one block at the given ranks, in the computing dtype."""
    values: dict[Role, Tensor] = {
        "q": weights.q.flatten(0, 1),
        "k": weights.k,
        "v": weights.v,
        "o": weights.o.flatten(0, 1),
    }
    biases: dict[Role, Tensor | None] = {
        "q": None if weights.q_bias is None else weights.q_bias.flatten(0, 1),
        "k": weights.k_bias,
        "v": weights.v_bias,
    }
    parts: dict[str, list[Tensor]] = {}
    for role in ROLES:
        projection = site.projection(role)
        packed = _pack(values[role], vectors(site, ranks, role))
        if (role == "o") != projection.transposed:
            packed = packed.T
        parts.setdefault(projection.weight, []).append(packed)
        if projection.bias is None:
            continue
        kept = vectors(site, ranks, role)
        bias = weights.o_bias if role == "o" else biases[role]
        if bias is None:  # dropped or moved: stored as zeros, so that names never change
            bias = weights.k.new_zeros(site.width if role == "o" else sum(kept))
        elif role != "o":
            bias = _pack(bias[..., None], kept).squeeze(-1)
        parts.setdefault(projection.bias, []).append(bias)
    return {
        name: pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=_fused_axis(pieces[0]))
        for name, pieces in parts.items()
    }


def vector_cost(site: AttentionSite) -> tuple[int, int]:
    """Return what one vector of one key/value head costs in QK and in VO, biases included."""

    def one(role: Role) -> int:
        projection = site.projection(role)
        repeat = site.groups if role in ("q", "o") else 1
        width = projection.out_features if role == "o" else projection.in_features
        return repeat * (width + (projection.bias is not None and role != "o"))

    return one("q") + one("k"), one("v") + one("o")


def _fused_axis(piece: Tensor) -> int:
    # Fused maps are concatenated along their outputs: the last axis of Conv1D's (in, out)
    # and of a bias alike.
    return piece.dim() - 1


def _part(stored: Tensor, site: AttentionSite, role: Role, ranks: SiteRanks) -> Tensor:
    projection = site.projection(role)
    if projection.parts == 1:
        return stored
    sizes = [sum(vectors(site, ranks, each)) for each in ("q", "k", "v")]
    return torch.split(stored, sizes, dim=_fused_axis(stored))[projection.part]


def _row_index(ranks: Sequence[int], d: int) -> Tensor:
    return torch.cat([torch.arange(rank) + head * d for head, rank in enumerate(ranks)])


def _unpack(packed: Tensor, ranks: Sequence[int], d: int) -> Tensor:
    """(sum of ranks, n) -> (heads, d, n), zero beyond each head's rank."""
    if all(rank == d for rank in ranks):
        return torch.unflatten(packed, 0, (len(ranks), d))
    dense = packed.new_zeros(len(ranks) * d, packed.shape[1])
    dense[_row_index(ranks, d)] = packed
    return torch.unflatten(dense, 0, (len(ranks), d))


def _pack(dense: Tensor, ranks: Sequence[int]) -> Tensor:
    """(heads, d, n) -> (sum of ranks, n)."""
    d = dense.shape[1]
    flat = dense.flatten(0, 1)
    return flat if all(rank == d for rank in ranks) else flat[_row_index(ranks, d)]
