"""Absorb-Decompose (CLOVER, arXiv 2411.17426): cross-layer orthogonal vectors of each head.

Within a head, queries and keys act only through ``W_qᵀ W_k``, values and outputs only
through ``W_o W_v``. Each product is absorbed, decomposed by an SVD of rank at most the head
dimension, and written back as new vectors: same function, but orthogonal and sorted.

Not for pairs with something between their two maps: RoPE or a norm between q and k.
"""

from __future__ import annotations

from torch import Tensor

from surgery.linalg import product_svd
from surgery.methods.attention import AttentionWeights
from surgery.methods.decomposition import PairDecomposition, SiteDecomposition, prepare


def absorb_decompose(weights: AttentionWeights, *, qk: bool, vo: bool) -> SiteDecomposition:
    """Decompose the chosen pairs of one block.

    Args:
        weights: The dense block, float64.
        qk: Decompose query-key; exact only where scores are the plain product of both.
        vo: Decompose value-output.

    Returns:
        Singular values and transforms of each pair. Under grouped queries one SVD serves a
        group, so its heads share one basis and one rank.
    """
    ready = prepare(weights, qk=qk, vo=vo)
    return SiteDecomposition(
        qk=_decompose(*ready.qk_factors()) if qk else None,
        vo=_decompose(*ready.vo_factors()) if vo else None,
    )


def _decompose(left: Tensor, right: Tensor) -> PairDecomposition:
    values, to_left, to_right = product_svd(left, right)
    return PairDecomposition(values, values.norm(dim=-1), to_left, to_right)
