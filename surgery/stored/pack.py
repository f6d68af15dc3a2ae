"""Between stored tensors and heads: how a checkpoint's q, k, v and o become per-head factors.

Stored tensors hold the kept vectors of all heads one after the other, ragged where ranks
differ. In memory every head has its full d rows, zero where they were cut: beyond its rank, or,
across RoPE, at both rows of a frequency pair. So dense weights are the special case of full
ranks, and merging a pruned block is reading it and writing it dense.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from surgery.architectures.base import ROLES, AttentionSite, Role
from surgery.methods import AttentionWeights
from surgery.report.accounting import full_ranks
from surgery.runtime.heads import SiteRanks


def vectors(site: AttentionSite, ranks: SiteRanks, role: Role) -> list[int]:
    """Return how many vectors each head of ``role`` stores, in storage order."""
    return [len(rows) for rows in kept_rows(site, ranks, role)]


def kept_rows(site: AttentionSite, ranks: SiteRanks, role: Role) -> list[list[int]]:
    """Return which of its d rows each head of ``role`` stores, in storage order.

    The first ones; of queries and keys across RoPE those of the kept frequency pairs, the first
    row of every pair before the second of any.

    Raises:
        ValueError: Queries and keys across RoPE are pruned, and the ranks do not name the pairs.
    """
    kept = [list(range(rank)) for rank in (ranks.qk if role in ("q", "k") else ranks.vo)]
    if role in ("q", "k") and "rope" in site.between:
        half = site.head_dim // 2
        if ranks.pairs is not None:
            kept = [[*pairs, *(half + pair for pair in pairs)] for pairs in ranks.pairs]
        elif min(ranks.qk) < site.head_dim:
            raise ValueError(f"{site.path}: q and k lose whole RoPE pairs, and none is named")
    repeat = site.groups if role in ("q", "o") else 1
    return [rows for rows in kept for _ in range(repeat)]


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
        """(heads, d, width), zero where rows were cut."""
        stored = _part(tensor(site.projection(role).weight), site, role, ranks)
        if site.projection(role).transposed:
            stored = stored.T
        if role == "o":
            stored = stored.T
        return _unpack(stored.to(dtype), kept_rows(site, ranks, role), site.head_dim)

    def bias(role: Role) -> Tensor | None:
        name = site.projection(role).bias
        if name is None:
            return None
        stored = tensor(name)
        if role == "o":
            return stored.to(dtype)
        stored = _part(stored, site, role, ranks)
        return _unpack(
            stored.to(dtype)[:, None], kept_rows(site, ranks, role), site.head_dim
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
        kept = kept_rows(site, ranks, role)
        packed = _pack(values[role], kept)
        if (role == "o") != projection.transposed:
            packed = packed.T
        parts.setdefault(projection.weight, []).append(packed)
        if projection.bias is None:
            continue
        bias = weights.o_bias if role == "o" else biases[role]
        if bias is None:  # dropped or moved: stored as zeros, so that names never change
            bias = weights.k.new_zeros(site.width if role == "o" else sum(map(len, kept)))
        elif role != "o":
            bias = _pack(bias[..., None], kept).squeeze(-1)
        parts.setdefault(projection.bias, []).append(bias)
    # Fused maps are concatenated along their outputs, as biases are.
    transposed = site.q.transposed
    return {
        name: pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=_axis(pieces[0], transposed))
        for name, pieces in parts.items()
    }


def _axis(piece: Tensor, transposed: bool) -> int:
    """Return the axis of a map's outputs, of a weight or a bias."""
    return piece.dim() - 1 if transposed else 0


def _part(stored: Tensor, site: AttentionSite, role: Role, ranks: SiteRanks) -> Tensor:
    fused = site.fused(role)
    if len(fused) == 1:
        return stored
    sizes = [sum(vectors(site, ranks, each)) for each in fused]
    axis = _axis(stored, site.projection(role).transposed)
    return torch.split(stored, sizes, dim=axis)[fused.index(role)]


def _row_index(kept: Sequence[Sequence[int]], d: int) -> Tensor:
    flat = [head * d + row for head, rows in enumerate(kept) for row in rows]
    return torch.tensor(flat, dtype=torch.long)


def _unpack(packed: Tensor, kept: Sequence[Sequence[int]], d: int) -> Tensor:
    """(rows kept in all, n) -> (heads, d, n), zero where rows were cut."""
    if all(len(rows) == d for rows in kept):  # then they are all in order
        return torch.unflatten(packed, 0, (len(kept), d))
    dense = packed.new_zeros(len(kept) * d, packed.shape[1])
    dense[_row_index(kept, d)] = packed
    return torch.unflatten(dense, 0, (len(kept), d))


def _pack(dense: Tensor, kept: Sequence[Sequence[int]]) -> Tensor:
    """(heads, d, n) -> (rows kept in all, n)."""
    d = dense.shape[1]
    flat = dense.flatten(0, 1)
    return flat if all(len(rows) == d for rows in kept) else flat[_row_index(kept, d)]
