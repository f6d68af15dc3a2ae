"""The papers' "vanilla" baseline: no decomposition, the vectors of smallest norm go.

Vector i of a head is worth the norm of its rank-one share of the product,
``‖l_i‖ ‖n_i‖``, and they are selected by that.
"""

from __future__ import annotations

from torch import Tensor

from surgery.linalg import product_norm
from surgery.methods.attention import AttentionWeights
from surgery.methods.decomposition import PairDecomposition, SiteDecomposition, prepare


def magnitude(weights: AttentionWeights, *, qk: bool, vo: bool) -> SiteDecomposition:
    """Sort the existing vectors of each head by norm product; mixes nothing.

    Args and returns as for :func:`surgery.methods.absorb_decompose.absorb_decompose`.
    """
    ready = prepare(weights, qk=qk, vo=vo)
    return SiteDecomposition(
        qk=_sort(*ready.qk_factors()) if qk else None,
        vo=_sort(*ready.vo_factors()) if vo else None,
    )


def _sort(left: Tensor, right: Tensor) -> PairDecomposition:
    worth = left.norm(dim=-1) * right.norm(dim=-1)
    spectrum, order = worth.sort(dim=-1, descending=True, stable=True)
    return PairDecomposition(spectrum, product_norm(left, right), order=order)
