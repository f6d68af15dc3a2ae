"""What Absorb-Decompose trains: a block or a diagonal behind each head (CLOVER, arXiv 2411.17426).

Keys, values and up projections are factored so that orthonormal rows stay frozen and one small
matrix a head, or a block of rows, stands behind them and is trained:

- query-key, nothing between the two maps: ``[W_q|b_q]ᵀ W_k = U S Vᵀ``; q becomes Uᵀ, k becomes
  Vᵀ, and S stands behind k;
- value-output: ``W_o W_v = U S Vᵀ``; o's columns become U, v becomes Vᵀ, and S stands behind v;
- keys under RoPE, which mixes with no product: q stays, ``[W_k|b_k] = R Q`` with R before RoPE;
- rows of any other map, ``up`` in the paper: ``[W|b] = R Q``.

``core`` trains a full matrix, S at first or R; ``diagonal`` its diagonal alone. Under RoPE a
diagonal must leave the two rows of a frequency pair in step, so there the pair's norm stands behind
both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.choices.settings import Form
from surgery.linalg import orthonormal_product, orthonormal_rows, orthonormality_defect
from surgery.methods.attention import AttentionWeights

PARTS: dict[Form, str] = {"core": "core_blocks", "diagonal": "singular_values"}


@dataclass(frozen=True)
class Behind:
    """What stands behind neighbouring rows of one map: pieces one after the other, float64.

    Attributes:
        form: Whether blocks or diagonals are trained.
        pieces: One a block: ``(r, r)``, or a diagonal: ``(r,)``, of keys under RoPE ``(r / 2,)``.
        defect: Largest departure of the frozen rows from orthonormality; ``None`` where they
            are not meant to be orthonormal.
    """

    form: Form
    pieces: tuple[Tensor, ...]
    defect: float | None = None

    def parts(self) -> dict[str, Tensor]:
        """Return the trainable tensors by name, float32."""
        flat = torch.cat([piece.flatten() for piece in self.pieces])
        return {PARTS[self.form]: flat.float()}

    def spectrum(self) -> Tensor:
        """Return the singular values of all pieces, descending together."""
        square = self.form == "core"
        values = [torch.linalg.svdvals(one) if square else one.abs() for one in self.pieces]
        return torch.cat(values).sort(descending=True).values

    def join(self, other: Behind) -> Behind:
        """Return both, one behind the other: of a map that is two."""
        known = [each.defect for each in (self, other) if each.defect is not None]
        pieces = (*self.pieces, *other.pieces)
        return Behind(self.form, pieces, max(known, default=None))


def factor_queries_keys(
    weights: AttentionWeights, ranks: Sequence[int], form: Form
) -> tuple[AttentionWeights, Behind]:
    """Make queries and keys orthonormal, with S behind the keys.

    Args:
        weights: The block, k's bias dropped, float64; zero rows where vectors were cut.
        ranks: How many vectors each key/value head has.
        form: What is trained.
    """
    values, left, right = orthonormal_product(*weights.qk_factors())
    return weights.with_qk_factors(left, right), _sorted(values, left, right, ranks, form)


def factor_values_outputs(
    weights: AttentionWeights, ranks: Sequence[int], form: Form
) -> tuple[AttentionWeights, Behind]:
    """Make values and outputs orthonormal, with S behind the values; v's bias moved or kept."""
    values, left, right = orthonormal_product(*weights.vo_factors())
    return weights.with_vo_factors(left, right), _sorted(values, left, right, ranks, form)


def factor_rotary_keys(
    weights: AttentionWeights, kept: Sequence[Sequence[int]], form: Form
) -> tuple[AttentionWeights, Behind]:
    """Factor keys that RoPE turns; queries stay as they are.

    Args:
        weights: The block, float64.
        kept: Which rows each key/value head stores: the first rows of its frequency pairs, then
            the second.
        form: ``core``: ``R Q`` with orthonormal Q. ``diagonal``: each pair's two rows over their
            joint norm, which stands behind both.
    """
    left, keys = weights.qk_factors()
    keys = keys.clone()
    pieces, defects = [], []
    for head, index in enumerate(kept):
        rows = keys[head, list(index)]
        if form == "core":
            piece, rows = (each[0] for each in orthonormal_rows(rows[None]))
            defects.append(orthonormality_defect(rows[None]))
        else:
            pairs = torch.unflatten(rows, 0, (2, -1))
            piece = torch.linalg.vector_norm(pairs, dim=(0, 2))
            rows = (pairs / torch.where(piece > 0, piece, 1.0)[:, None]).flatten(0, 1)
        keys[head, list(index)] = rows
        pieces.append(piece)
    behind = Behind(form, tuple(pieces), max(defects, default=None))
    return weights.with_qk_factors(left, keys), behind


def factor_rows(
    rows: Float[Tensor, "out n"], sizes: Sequence[int]
) -> tuple[Float[Tensor, "out n"], Behind]:
    """Factor blocks of neighbouring rows ``[W|b]`` into ``R Q``, Q with orthonormal rows.

    Args:
        rows: Float64.
        sizes: Rows of each block; together all of them.
    """
    found = [orthonormal_rows(block[None]) for block in torch.split(rows, list(sizes))]
    frozen = torch.cat([q[0] for _, q in found])
    defect = max(orthonormality_defect(q) for _, q in found)
    return frozen, Behind("core", tuple(r[0] for r, _ in found), defect)


def block_sizes(out_features: int, in_features: int, size: int) -> list[int]:
    """Return how many rows each block has: ``size``, the last one what is left.

    There are not more orthonormal rows than inputs: where ``size`` exceeds these, they count.
    """
    size = min(size, in_features)
    whole, rest = divmod(out_features, size)
    return [size] * whole + [rest] * (rest > 0)


def _sorted(
    values: Tensor, left: Tensor, right: Tensor, ranks: Sequence[int], form: Form
) -> Behind:
    """Return S of each head, cut at its rank, where both factors have no more."""
    pieces = tuple(one[:rank] for one, rank in zip(values, ranks, strict=True))
    if form == "core":
        pieces = tuple(torch.diag(one) for one in pieces)
    defect = max(orthonormality_defect(left), orthonormality_defect(right))
    return Behind(form, pieces, defect)
