"""Absorb-Decompose by what attention computes on real input, instead of by weights alone.

The product of a head's two maps is decomposed as real queries and keys, or contexts, see it:
with ``R_qᵀR_q = E[q qᵀ]`` and ``R_kᵀR_k = E[Cov(k)]`` over the keys of a sequence,
``R_q R_kᵀ = U S Vᵀ``, and dropping component i changes the scores by ``s_i²`` in the mean square.
For VO, contexts c stand for the values that attention averaged, with ``R_cᵀR_c = E[c cᵀ]`` and
``R_oᵀR_o = W_oᵀW_o``: component i is worth ``s_i²`` of what the block adds to the stream. All of
it is d×d a head, and with every component kept the maps' products are unchanged.

The moments are taken to the coordinates in which the weights' own decomposition is orthonormal.
White input has unit moments there, so mixing in a share of it, the *ridge*, bounds every
condition number: directions that few samples never show neither count as worthless nor are
divided by.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from surgery.choices.common import RIDGE
from surgery.linalg import ProductSVD, core_svd, product_svd
from surgery.linalg.metrics import product_norm, symmetric_root
from surgery.methods.attention import AttentionWeights
from surgery.methods.decomposition import PairDecomposition, SiteDecomposition, prepare
from surgery.methods.frequencies import rank_frequencies

FAINT = 1e-7
"""Vectors worth less than this share of a head's largest say nothing measurable of their input."""

UNSEEN = 1e-12
"""Directions with less than this share of the largest energy hold rounding, not input."""

LOSSLESS = 1e-12
"""Relative error of a head's product, all components kept, that needs no mending."""


@runtime_checkable
class SecondMoments(Protocol):
    """What one block saw, per key/value head: float64, symmetric."""

    @property
    def q(self) -> Float[Tensor, "kv d d"]:
        """``E[q qᵀ]`` over queries, with q's bias, before the softmax scale, after RoPE."""

    @property
    def k(self) -> Float[Tensor, "kv d d"]:
        """Covariance of keys within a sequence, averaged over sequences, after RoPE."""

    @property
    def c(self) -> Float[Tensor, "kv d d"]:
        """``E[c cᵀ]`` over contexts, less v's bias where o has a bias to take it."""


def activation_aware(
    weights: AttentionWeights,
    moments: SecondMoments,
    *,
    qk: bool,
    vo: bool,
    rotary: bool = False,
    ridge: float = RIDGE,
    metric: Float64[Tensor, "w w"] | None = None,
) -> SiteDecomposition:
    """Decompose the chosen pairs of one block on what it saw.

    Args:
        weights: The dense block, float64.
        moments: What it saw.
        qk: Decompose query-key; across RoPE, where nothing can be mixed, rank its frequencies.
        vo: Decompose value-output.
        rotary: RoPE stands between q and k.
        ridge: Share of white input in every second moment, 0 to 1.
        metric: A, positive definite: what the block adds to the stream counts as the model's output
            minds it (:mod:`surgery.calibration.output_metric`), ``Δᵀ A Δ`` and not ``‖Δ‖²``.

    Returns:
        Spectra in units of q·k before the softmax scale, and of the stream (of the root of a
        damage, under a metric); transforms of each pair. Under grouped queries one decomposition
        serves a group.
    """
    ready = prepare(weights, qk=qk and not rotary, vo=vo)
    query_key = value_output = None
    if qk and rotary:
        query_key = rank_frequencies(ready, moments.q, moments.k)
    elif qk:
        base = product_svd(*ready.qk_factors())
        query_key = _decompose(
            base,
            _seen(base.values, base.left, moments.q, ridge),
            _seen(base.values, base.right, moments.k, ridge),
        )
    if vo:
        left, right = ready.vo_factors()
        if metric is not None:
            minded = symmetric_root(metric).to(ready.o)
            left, _ = replace(ready, o=ready.o @ minded).vo_factors()
        base = product_svd(left, right)
        # o's columns are orthonormal there: all that they add to the stream counts alike.
        unit = torch.eye(base.values.shape[-1]).to(base.values).expand_as(base.left)
        contexts = _seen(base.values, base.right, moments.c, ridge)
        value_output = _decompose(base, unit, contexts)
        if metric is not None:  # errors of the product are told in its own units
            norm = product_norm(*ready.vo_factors())
            value_output = replace(value_output, norm=norm)
    return SiteDecomposition(qk=query_key, vo=value_output)


def _seen(values: Tensor, transform: Tensor, moments: Tensor, ridge: float) -> Tensor:
    """Return second moments in orthonormal coordinates, the ridge mixed in: (kv, d, d).

    ``transform`` yields vectors of squared length ``values``; divided by their lengths they are
    the coordinates of the input itself.
    """
    known = values > FAINT * values[:, :1]
    inverse = torch.where(known, values, 1.0).rsqrt() * known
    there = inverse[..., None] * transform
    seen = there @ moments @ there.mT
    # What cannot be measured is taken to be as large as the rest is on average.
    mean = seen.diagonal(dim1=-2, dim2=-1).sum(dim=-1) / known.sum(dim=-1).clamp(min=1)
    white = mean[:, None].expand_as(values)
    blended: Tensor = (1 - ridge) * seen + torch.diag_embed(
        torch.where(known, ridge * white, white)
    )
    return blended


def _decompose(base: ProductSVD, left: Tensor, right: Tensor) -> PairDecomposition:
    """Decompose diag(values), the product in orthonormal coordinates, between two moments."""
    lengths = base.values.sqrt()[:, None, :]
    norm = base.values.norm(dim=-1)
    core = core_svd(_root(left) * lengths, _root(right) * lengths)
    rows, columns = core.left * lengths, core.right * lengths
    error = torch.linalg.matrix_norm(torch.diag_embed(base.values) - rows.mT @ columns)
    short = error > LOSSLESS * norm
    if bool(short.any()):
        inverse = torch.where(lengths > 0, lengths, 1.0).reciprocal()[short]
        whole = _completed(rows[short], columns[short], base.values[short])
        core.left[short], core.right[short] = (each * inverse for each in whole)
    return PairDecomposition(core.values, norm, core.left @ base.left, core.right @ base.right)


def _completed(rows: Tensor, columns: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Make ``rowsᵀ columns`` the whole product, diag(values), again; return both.

    What no input showed, by the moments, has no component of its own. By Wedderburn's rank
    reduction, what the components that there are leave of the product has just the rank that
    is missing: it fills the empty ones, which come last and are worth nothing.
    """
    product = torch.diag_embed(values)
    u, s, vh = torch.linalg.svd(product - rows.mT @ columns)
    floor = s.shape[-1] * torch.finfo(s.dtype).eps * values.sum(dim=-1, keepdim=True)
    empty = ~rows.any(dim=-1)
    source = (empty.cumsum(dim=-1) - 1).clamp(min=0)
    size = torch.where(s > floor, s, 0.0).sqrt().gather(1, source) * empty
    index = source[..., None].expand_as(u)
    rows = rows + size[..., None] * u.mT.gather(1, index)
    columns = columns + size[..., None] * vh.gather(1, index)
    # Moments of very unequal directions cost digits of the others: one step of refinement.
    return rows, columns + torch.linalg.pinv(rows.mT) @ (product - rows.mT @ columns)


def _root(moments: Float[Tensor, "kv d d"]) -> Float[Tensor, "kv d d"]:
    """Return R with ``RᵀR = moments``, of any rank."""
    eigenvalues, vectors = torch.linalg.eigh((moments + moments.mT) / 2)
    seen = eigenvalues > UNSEEN * eigenvalues[:, -1:]
    root: Tensor = (eigenvalues * seen).clamp(min=0).sqrt()[..., None] * vectors.mT
    return root
