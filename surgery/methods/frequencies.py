"""Which RoPE frequencies of a head may go: whole pairs of rows, ranked by what scores lose.

Queries and keys are rotated by position between their maps and the scores, so their rows cannot
be mixed; but rows i and i + d/2, which one frequency turns, can go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from surgery.linalg import product_norm
from surgery.methods.attention import AttentionWeights
from surgery.methods.decomposition import PairDecomposition

UNSEEN = torch.finfo(torch.float64).tiny
"""Blocks that no input reached have no energy to share out."""


def rank_frequencies(
    weights: AttentionWeights, q: Float[Tensor, "kv d d"], k: Float[Tensor, "kv d d"]
) -> PairDecomposition:
    """Rank the frequencies of every key/value head by the energy that scores lose with them.

    For a query and a key seen independently, dropping the set D of frequencies changes their
    score by ``Σ_{i,j ∈ D} ⟨E[q_i q_jᵀ], Cov(k_i, k_j)⟩`` in the mean square, with the two rows
    of each: what frequencies have in common counts too. They are taken away one by one, each
    time the one that costs least.

    Args:
        weights: The block; it is not changed.
        q: Second moments of rotated queries.
        k: Covariance of rotated keys within a sequence.

    Returns:
        ``spectrum²`` sums to the energy of what is dropped, or to more where a frequency costs
        less once others are gone; a selection, both rows of a frequency side by side.
    """
    d = q.shape[-1]
    shape = (-1, 2, d // 2, 2, d // 2)
    shared = torch.einsum("hxiyj,hxiyj->hij", q.reshape(shape), k.reshape(shape))
    order, cost = _take_away(shared)
    # A pair that goes early must not look dearer than one that stays.
    worth = cost.cummax(dim=-1).values.flip(-1)
    return PairDecomposition(
        spectrum=(worth / 2).sqrt().repeat_interleave(2, dim=-1),
        norm=product_norm(*weights.qk_factors()),
        order=_rows(order.flip(-1)),
        step=2,
    )


def share_frequencies(parts: Sequence[PairDecomposition]) -> list[PairDecomposition]:
    """Give every head of every block the same frequencies in the same order.

    A frequency is worth its share of each block's energy, summed over blocks, as if it went from
    each head in that head's own order. Within a block, heads have one spectrum: their mean.

    Args:
        parts: What :func:`rank_frequencies` found of each block, all of one head dimension.
    """
    each = [_by_frequency(part).mean(dim=0) for part in parts]
    shares = torch.stack([energy / energy.sum().clamp(min=UNSEEN) for energy in each])
    order = shares.sum(dim=0).argsort(descending=True, stable=True)
    shared = []
    for part, energy in zip(parts, each, strict=True):
        # A frequency that goes early must not look dearer than one that stays.
        worth = energy[order].flip(-1).cummax(dim=-1).values.flip(-1)
        heads = part.spectrum.shape[0]
        spectrum = (worth / 2).sqrt().repeat_interleave(2).expand(heads, -1)
        one = _rows(order.expand(heads, -1))
        shared.append(replace(part, spectrum=spectrum.clone(), order=one))
    return shared


def _rows(frequencies: Int64[Tensor, "kv half"]) -> Int64[Tensor, "kv d"]:
    """Return the two rows of each frequency i, i and i + d/2, one after the other."""
    return torch.stack([frequencies, frequencies + frequencies.shape[1]], dim=-1).flatten(1)


def _by_frequency(part: PairDecomposition) -> Float[Tensor, "kv half"]:
    """Return the energy of every frequency, in their own order."""
    if part.frequencies is None:
        raise ValueError("no frequencies were ranked")
    energy = torch.unflatten(part.spectrum.square(), 1, (-1, 2)).sum(dim=-1)
    return torch.zeros_like(energy).scatter(1, part.frequencies, energy)


def _take_away(
    shared: Float[Tensor, "kv n n"],
) -> tuple[Int64[Tensor, "kv n"], Float[Tensor, "kv n"]]:
    """Return the order in which frequencies go, and what each adds to the energy lost."""
    heads, n, _ = shared.shape
    marginal = shared.diagonal(dim1=-2, dim2=-1).clone()
    everyone = torch.arange(heads, device=shared.device)
    order, cost = [], []
    for _ in range(n):
        least = marginal.argmin(dim=-1)
        cost.append(marginal[everyone, least].clamp(min=0))
        order.append(least)
        marginal = marginal + 2 * shared[everyone, least]
        for gone in order:
            marginal[everyone, gone] = torch.inf
    return torch.stack(order, dim=-1), torch.stack(cost, dim=-1)
