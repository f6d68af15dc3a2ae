"""The weights of one attention block, split into heads: what a method sees of a checkpoint.

Notation: ``kv`` key/value heads, ``g`` query heads that share one of them (grouped-query
attention; 1 otherwise), ``d`` head dimension, ``w`` model width. Every factor has its head
dimension in front of its width, so that a d×d transform acts on rows whatever the role.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class AttentionWeights:
    """One block, dense or transformed; all tensors of one floating dtype.

    Attributes:
        q: Query rows of each head.
        k: Key rows of each key/value head.
        v: Value rows of each key/value head.
        o: Output columns of each head, transposed: ``o[j, i].T @ context`` is added to the
            stream.
        q_bias: Bias of each query row, where there is one; likewise ``k_bias``, ``v_bias``.
        o_bias: Bias of the output.
    """

    q: Float[Tensor, "kv g d w"]
    k: Float[Tensor, "kv d w"]
    v: Float[Tensor, "kv d w"]
    o: Float[Tensor, "kv g d w"]
    q_bias: Float[Tensor, "kv g d"] | None = None
    k_bias: Float[Tensor, "kv d"] | None = None
    v_bias: Float[Tensor, "kv d"] | None = None
    o_bias: Float[Tensor, " w"] | None = None

    def qk_factors(self) -> tuple[Float[Tensor, "kv d m"], Float[Tensor, "kv d n"]]:
        """Return L and N of ``M = Lᵀ N``, the scores' bilinear form, per key/value head.

        L holds ``[W_q | b_q]`` of the group's query heads side by side along their inputs;
        N is ``W_k``, with ``b_k`` as a last column where it has not been dropped.
        """
        left = self.q
        if self.q_bias is not None:
            left = torch.cat([left, self.q_bias[..., None]], dim=-1)
        return _side_by_side(left), _with_column(self.k, self.k_bias)

    def vo_factors(self) -> tuple[Float[Tensor, "kv d m"], Float[Tensor, "kv d n"]]:
        """Return L and N of ``M = Lᵀ N = W_o W_v``, per key/value head.

        L holds ``W_oᵀ`` of the group's heads side by side along their outputs; N is
        ``W_v``, with ``b_v`` as a last column where it has not been moved into o's bias.
        """
        return _side_by_side(self.o), _with_column(self.v, self.v_bias)

    def with_qk_factors(
        self, left: Float[Tensor, "kv d m"], right: Float[Tensor, "kv d n"]
    ) -> AttentionWeights:
        """Return the block with these factors in the place of :meth:`qk_factors`'s."""
        q, q_bias = _without_column(_one_by_one(left, self.q.shape[1]), self.q_bias)
        k, k_bias = _without_column(right, self.k_bias)
        return replace(self, q=q, q_bias=q_bias, k=k, k_bias=k_bias)

    def with_vo_factors(
        self, left: Float[Tensor, "kv d m"], right: Float[Tensor, "kv d n"]
    ) -> AttentionWeights:
        """Return the block with these factors in the place of :meth:`vo_factors`'s."""
        v, v_bias = _without_column(right, self.v_bias)
        return replace(self, o=_one_by_one(left, self.o.shape[1]), v=v, v_bias=v_bias)

    def add_to_output(
        self, weight: Float[Tensor, "w n"], bias: Float[Tensor, " w"] | None
    ) -> AttentionWeights:
        """Add to o as it multiplies the contexts of all query heads side by side."""
        kv, g, d, _ = self.o.shape
        added = torch.unflatten(weight.to(self.o).T, 0, (kv, g, d))
        if bias is None or self.o_bias is None:
            return replace(self, o=self.o + added)
        return replace(self, o=self.o + added, o_bias=self.o_bias + bias.to(self.o_bias))

    def absorb_value_bias(self) -> AttentionWeights:
        """Move v's bias into o's, exactly: attention weights sum to one.

        ``b_o += Σ_h W_o,h b_v,kv(h)`` over query heads h. Without a bias on o (Qwen2)
        nothing moves and v's bias stays in the VO product.
        """
        if self.v_bias is None or self.o_bias is None:
            return self
        moved = torch.einsum("jgdw,jd->w", self.o, self.v_bias)
        return replace(self, o_bias=self.o_bias + moved, v_bias=None)

    def drop_key_bias(self) -> AttentionWeights:
        """Drop k's bias, exactly: softmax over keys does not see constants.

        The bias adds ``q·b_k`` to a whole row of scores. Not for use across RoPE.
        """
        return replace(self, k_bias=None)

    def factors(self, seam: str) -> tuple[Float[Tensor, "kv d m"], Float[Tensor, "kv d n"]]:
        """Return L and N of a pair by its name: :meth:`qk_factors` or :meth:`vo_factors`."""
        return {"qk": self.qk_factors, "vo": self.vo_factors}[seam]()

    def transformed(
        self, seam: str, left: Float[Tensor, "kv e d"], right: Float[Tensor, "kv e d"]
    ) -> AttentionWeights:
        """Replace the vectors of a pair: :meth:`transform_qk` or :meth:`transform_vo`."""
        return {"qk": self.transform_qk, "vo": self.transform_vo}[seam](left, right)

    def selected(self, seam: str, order: Int64[Tensor, "kv e"]) -> AttentionWeights:
        """Return the block with only these vectors of a pair, in this order."""

        def of_keys(tensor: Tensor) -> Tensor:
            return _chosen(tensor, order, 1)

        def of_queries(tensor: Tensor) -> Tensor:
            return _chosen(tensor, order[:, None].expand(-1, tensor.shape[1], -1), 2)

        if seam == "vo":
            bias = None if self.v_bias is None else of_keys(self.v_bias)
            return replace(self, o=of_queries(self.o), v=of_keys(self.v), v_bias=bias)
        return replace(
            self,
            q=of_queries(self.q),
            q_bias=None if self.q_bias is None else of_queries(self.q_bias),
            k=of_keys(self.k),
            k_bias=None if self.k_bias is None else of_keys(self.k_bias),
        )

    def transform_qk(
        self, left: Float[Tensor, "kv e d"], right: Float[Tensor, "kv e d"]
    ) -> AttentionWeights:
        """Replace the query and key vectors by ``left`` and ``right`` times themselves."""
        return replace(
            self,
            q=left[:, None] @ self.q,
            q_bias=None if self.q_bias is None else _rows(left[:, None], self.q_bias),
            k=right @ self.k,
            k_bias=None if self.k_bias is None else _rows(right, self.k_bias),
        )

    def transform_vo(
        self, left: Float[Tensor, "kv e d"], right: Float[Tensor, "kv e d"]
    ) -> AttentionWeights:
        """Replace output columns by ``left`` and value rows by ``right`` times themselves."""
        return replace(
            self,
            o=left[:, None] @ self.o,
            v=right @ self.v,
            v_bias=None if self.v_bias is None else _rows(right, self.v_bias),
        )


def _chosen(tensor: Tensor, order: Tensor, axis: int) -> Tensor:
    """Take rows along ``axis`` in an order that has all the axes up to this one."""
    behind = tensor.shape[axis + 1 :]
    index = order.reshape(*order.shape, *(1 for _ in behind)).expand(*order.shape, *behind)
    return tensor.gather(axis, index)


def _rows(transform: Tensor, vector: Tensor) -> Tensor:
    return (transform @ vector[..., None]).squeeze(-1)


def _side_by_side(grouped: Tensor) -> Tensor:
    """(kv, g, d, n) -> (kv, d, g·n)."""
    kv, g, d, n = grouped.shape
    return grouped.transpose(1, 2).reshape(kv, d, g * n)


def _with_column(matrix: Tensor, column: Tensor | None) -> Tensor:
    return matrix if column is None else torch.cat([matrix, column[..., None]], dim=-1)


def _one_by_one(joined: Tensor, groups: int) -> Tensor:
    """(kv, d, g·n) -> (kv, g, d, n)."""
    kv, d, width = joined.shape
    return joined.reshape(kv, d, groups, width // groups).transpose(1, 2)


def _without_column(matrix: Tensor, column: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return (matrix, None) if column is None else (matrix[..., :-1], matrix[..., -1])
