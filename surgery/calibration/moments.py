"""Second moments of queries, keys and contexts, summed in float64 as activations stream by.

Notation: B sequences, T tokens, H query heads, G key/value heads, g = H / G query heads that
share one, d head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from surgery.errors import SurgeryError

AT_ONCE = 1 << 21
"""Numbers copied to float64 at once (16 MB), unless one sequence alone has more."""

MOMENTS = ("q", "k", "c")


@dataclass(frozen=True, eq=False)
class Moments:
    """What one attention block saw, per key/value head; float64, on the CPU, symmetric.

    Attributes:
        q: Weighted mean of ``q qᵀ`` over the queries of all g heads of the group, with q's
            bias, before the softmax scale, after RoPE; ``(G, d, d)``.
        k: Weighted covariance of keys within each sequence, after RoPE, averaged over
            sequences in proportion to the weight of the queries that look at them; a mean
            over the keys of one sequence cancels in its softmax. ``(G, d, d)``.
        c: Weighted mean of ``c cᵀ`` over queries and the g heads: c is the head's slice of
            o's input, less v's bias where o has a bias that can take it; ``(G, d, d)``.
        queries: Sum of the weights of the query positions behind q and c.
        sequences: Sequences behind k.
    """

    q: Float64[Tensor, "kv d d"]
    k: Float64[Tensor, "kv d d"]
    c: Float64[Tensor, "kv d d"]
    queries: float
    sequences: int


class Accumulator:
    """Running sums of one attention block's moments.

    Sums are kept in float64 where the activations are (on the CPU for a device without
    float64). Activations may be of any dtype: each is converted before anything is computed
    from it.

    Args:
        kv_heads: G.
        groups: g.
        head_dim: d.
    """

    def __init__(self, kv_heads: int, groups: int, head_dim: int) -> None:
        self.kv_heads, self.groups, self.head_dim = kv_heads, groups, head_dim
        self._sums: dict[str, Tensor] = {}
        self._weights = dict.fromkeys(MOMENTS, 0.0)
        self._sequences = 0

    def add_queries(self, q: Float[Tensor, "b t h d"], weights: Float64[Tensor, "b t"]) -> None:
        """Add queries of all H heads; ``weights``, on the CPU, are those of the positions."""
        self._add_rows("q", q, weights, None)

    def add_contexts(
        self,
        c: Float[Tensor, "b t h d"],
        weights: Float64[Tensor, "b t"],
        v_bias: Float[Tensor, "kv d"] | None,
    ) -> None:
        """Add what the H heads feed to o; ``v_bias`` is taken off first."""
        self._add_rows("c", c, weights, v_bias)

    def add_keys(
        self,
        k: Float[Tensor, "b s kv d"],
        weights: Float64[Tensor, "b s"],
        sequence_weights: Float64[Tensor, " b"],
    ) -> None:
        """Add the keys of whole sequences.

        Args:
            k: Keys.
            weights: Weight of each position within its sequence, on the CPU.
            sequence_weights: What each sequence counts in the average over sequences.
        """
        totals = weights.sum(dim=1)
        counted = (totals > 0) & (sequence_weights > 0)
        shares = weights / torch.where(counted, totals, 1.0)[:, None]
        rows = shares * torch.where(counted, sequence_weights, 0.0)[:, None]
        self._weights["k"] += float(sequence_weights[counted].sum())
        self._sequences += int(counted.sum())
        for part in self._parts(k):
            keys = self._gather(k[part])
            # The mean comes off in float64 before anything is squared: E[k kᵀ] - m mᵀ would
            # lose what little two close keys differ by.
            share = shares[part].to(keys.device)
            keys -= share[:, None, :] @ keys
            self._add("k", keys, rows[part])

    def merge(self, other: Accumulator) -> None:
        """Add everything that ``other`` has seen of the same block."""
        for name, value in other._sums.items():
            own = self._sums.get(name)
            self._sums[name] = value.clone() if own is None else own + value.to(own.device)
        for name, weight in other._weights.items():
            self._weights[name] += weight
        self._sequences += other._sequences

    def moments(self, where: str) -> Moments:
        """Return the means of what was added.

        Args:
            where: The block's name, for messages.

        Raises:
            SurgeryError: Nothing was added, or NaN or infinity was.
        """
        means: dict[str, Tensor] = {}
        for name in MOMENTS:
            if self._weights[name] <= 0:
                raise SurgeryError(
                    "Calibration saw no input of an attention block.",
                    where=where,
                    found=f"no {name} of positive weight",
                    hint="calibrate on more data",
                )
            repeat = 1 if name == "k" else self.groups
            mean = self._sums[name].cpu() / (self._weights[name] * repeat)
            if not bool(mean.isfinite().all()):
                raise SurgeryError(
                    "An attention block computed NaN or infinity on the calibration data.",
                    where=f"{where}: {name}",
                    hint="run the original model in float32, and look for damaged weights",
                )
            means[name] = (mean + mean.mT) / 2
        return Moments(
            means["q"],
            means["k"],
            means["c"],
            queries=self._weights["q"],
            sequences=self._sequences,
        )

    def _add_rows(self, name: str, heads: Tensor, weights: Tensor, shift: Tensor | None) -> None:
        self._weights[name] += float(weights.sum())
        for part in self._parts(heads):
            rows = self._gather(heads[part])
            if shift is not None:
                rows -= shift.to(rows)[:, None, None, :]
            self._add(name, rows, weights[part].repeat_interleave(self.groups, dim=1))

    def _add(self, name: str, rows: Tensor, weights: Tensor) -> None:
        """Add ``Σ w x xᵀ``: rows ``(G, B, T, d)``, which are overwritten, weights ``(B, T)``."""
        rows *= weights.sqrt().to(rows.device)[..., None]
        flat = rows.flatten(1, 2)
        if name not in self._sums:
            self._sums[name] = flat.new_zeros(self.kv_heads, self.head_dim, self.head_dim)
        self._sums[name].baddbmm_(flat.mT, flat)

    def _gather(self, heads: Tensor) -> Tensor:
        """(B, T, H or G, d) -> (G, B, T·g, d) in float64, a copy."""
        batch, tokens, count, d = heads.shape
        groups = count // self.kv_heads
        device = torch.device("cpu") if heads.device.type == "mps" else heads.device
        shape = (self.kv_heads, batch, tokens, groups, d)
        gathered = torch.empty(shape, dtype=torch.float64, device=device)
        gathered.copy_(torch.unflatten(heads, 2, (self.kv_heads, groups)).permute(2, 0, 1, 3, 4))
        return gathered.flatten(2, 3)

    @staticmethod
    def _parts(heads: Tensor) -> Iterator[slice]:
        """Whole sequences, as many as may be copied at once."""
        step = max(1, AT_ONCE // max(1, heads.shape[1:].numel()))
        for start in range(0, heads.shape[0], step):
            yield slice(start, start + step)
