"""Bounds on what a Krylov space has *not* found.

Two statements about ``H = AᵀA`` and an orthonormal basis Q from
:class:`~surgery.linalg.krylov.BlockLanczos`:

**What Q misses.** Let c be the top eigenvalue of C, the compression of H to the complement of Q,
and v its eigenvector. A second Lanczos run in that complement, from a fresh Gaussian block, starts
with orthonormal rows P_1, and ``‖P_1 v‖²`` is distributed as Beta(p/2, (d-m-p)/2) whatever v is:
at least τ, but for a probability that is chosen. For any polynomial q,
``q(c)² ‖P_1 v‖² = ‖P_1 q(C) v‖² ≤ ‖P_1 q(C)‖²``, and for q of the run's degree the right side is
known from its block tridiagonal matrix. If q(λ) = 1, all roots of q lie below λ and
``‖P_1 q(C)‖² < τ``, then no eigenvalue is λ or beyond: ``c < λ``. The q of least average norm is
a kernel polynomial; its roots are real and between the extreme Ritz values. After three steps with
32 rows the bound is typically 1.2 times the truth, where bounds that know the number of steps only
(Kuczyński and Woźniakowski 1992) give 1.7. Compare van Dorsselaer, Hochstenbach and van der Vorst
2000, "Computing probabilistic bounds for extreme eigenvalues of symmetric matrices with the
Lanczos method", which has one vector instead of a block.

**The optimum.** In the basis [Q; its next block; the rest], H is ``[[T, Rᵀ], [R, C]]`` with R the
last coupling, and ``C ⪯ c I``. By monotony the sum of H's top r eigenvalues, the energy of the
best approximation of rank r, is at most that of ``[[T, Rᵀ], [R, c I]]``.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.linalg.krylov import BlockLanczos


def optimum_bound(
    projected: Float[Tensor, "m m"], coupling: Float[Tensor, "p p"], missed: float, rank: int
) -> float:
    """Bound the sum of H's top ``rank`` eigenvalues from above.

    Args:
        projected: T, float64.
        coupling: R of T's last block, float64: rows belong to T, columns to the next block.
        missed: c, at least every eigenvalue of H compressed to the basis's complement.
        rank: r ≤ m.
    """
    m, p = len(projected), len(coupling)
    joint = projected.new_zeros(m + p, m + p)
    joint[:m, :m] = projected
    joint[m - p : m, m:] = coupling
    joint[m:, m - p : m] = coupling.mT
    joint[m:, m:].diagonal().fill_(missed)
    top = torch.linalg.eigvalsh(joint)[-rank:]
    # c stands there with the multiplicity of the whole complement.
    return float(top.clamp_min(missed).sum())


def least_overlap(block: int, dimension: int, failure: float) -> float:
    """Return τ with ``P[‖P_1 v‖² < τ] ≤ failure`` for the span of a Gaussian block.

    That is ``χ²_p / (χ²_p + χ²_(d-p))``, of independent terms: bounded, with half of the
    probability each, by ``P[χ²_p ≤ p x] ≤ (x e^(1-x))^(p/2)`` (Chernoff) and
    ``P[χ²_k ≥ k + 2 sqrt(k t) + 2 t] ≤ e^(-t)`` (Laurent and Massart 2000).
    """
    target = (failure / 2) ** (2 / block)
    x = 0.0
    for _ in range(40):  # rises towards the root of x e^(1-x) = target: valid wherever it stops
        x = target * math.exp(x - 1)
    t, k = -math.log(failure / 2), max(dimension - block, 0)
    return block * x / (block * x + k + 2 * math.sqrt(k * t) + 2 * t)


def missed_bound(run: BlockLanczos, overlap: float) -> float:
    """Bound the top eigenvalue of C, the operator that ``run`` saw, from above.

    Args:
        run: At least one step of Lanczos from a Gaussian block.
        overlap: τ of :func:`least_overlap`.
    """
    ritz = float(torch.linalg.eigvalsh(run.projected)[-1])
    if ritz <= 0:  # C is zero: a Gaussian block would not have missed the least of it
        return 0.0
    steps, p = len(run.diagonal), run.block
    extended = run.projected.new_zeros((steps + 1) * p, (steps + 1) * p)
    extended[: run.size, : run.size] = run.projected
    extended[run.size - p : run.size, run.size :] = run.coupling[-1]
    extended[run.size :, run.size - p : run.size] = run.coupling[-1].mT
    # π_0, π_1, … orthonormal in the average over the block's rows; π_j(C) P_1 in coordinates.
    powers = [extended.new_zeros(len(extended), p)]
    powers[0].diagonal().fill_(p**-0.5)
    recurrence: list[tuple[float, float]] = []
    for _ in range(steps):
        following = extended @ powers[-1]
        own = float((powers[-1] * following).sum())
        following = following - own * powers[-1]
        if recurrence:
            following = following - recurrence[-1][1] * powers[-2]
        # Zero where C is a multiple of the identity on all that the run can see.
        norm = max(float(torch.linalg.matrix_norm(following)), 1e-14 * ritz)
        recurrence.append((own, norm))
        powers.append(following / norm)
    stacked = torch.stack(powers)

    def excluded(value: float) -> bool:
        at = [1.0]
        for j, (own, norm) in enumerate(recurrence):
            before = recurrence[j - 1][1] * at[-2] if j else 0.0
            at.append(((value - own) * at[-1] - before) / norm)
        weights = stacked.new_tensor(at) / sum(x * x for x in at)
        least = torch.einsum("j,jab->ab", weights * p**0.5, stacked)
        return float(torch.linalg.matrix_norm(least, 2)) ** 2 < overlap

    low, high = ritz, 2 * ritz
    while not excluded(high):  # ends: q's norm falls at least as 1/λ
        low, high = high, 2 * high
    while high > 1.0002 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if excluded(middle) else (middle, high)
    return high
