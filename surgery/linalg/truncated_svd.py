"""The leading singular triplets of one matrix, with a bound of what they miss of the optimum.

``A ≈ U diag(s) Vᵀ`` of rank r captures the energy ``Σ s²`` of ``‖A‖_F²``; the most that any rank-r
matrix can capture is ``E* = Σ_{i≤r} σ_i²`` (Eckart and Young). The fast way, ``krylov_svd.py``,
never sees the σ_i, so it proves a bound of E* instead and works until that bound is close. To every
shortfall an allowance for rounding is added (``triplets.py``); it is all of the full SVD's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.linalg.krylov_svd import krylov_svd
from surgery.linalg.triplets import Triplets, provable, rounding_allowance, without_noise

QUICK_FULL_SVD = 384
"""Shorter side up to which nothing is quicker than the full SVD on real weights."""

AFFORDABLE_FULL_SVD = 1024
"""Shorter side up to which the full SVD takes about a second: the way out where no proof is had."""

RANKS_A_SIDE = 8
"""The rank must fit this often into the shorter side for "fast" to be fast."""


@dataclass(frozen=True)
class TruncatedSVD:
    """The leading r singular triplets of an (n, d) matrix, in its dtype, and what is proved.

    Attributes:
        u: (n, r), orthonormal columns; the largest entry of each in magnitude is positive.
        s: (r,), descending; exactly zero where rounding is all that is left.
        vt: (r, d), orthonormal rows.
        captured: ``Σ s² / ‖A‖_F²``; 1 for a zero matrix.
        shortfall: Bound of ``(E* - Σ s²) / E*``.
        defect: The larger of ``‖UᵀU - I‖_F`` and ``‖VᵀV - I‖_F``, measured in float64.
        method: "krylov" or "full": what was really run.
    """

    u: Float[Tensor, "n r"]
    s: Float[Tensor, " r"]
    vt: Float[Tensor, "r d"]
    captured: float
    shortfall: float
    defect: float
    method: str


def truncated_svd(
    matrix: Tensor,
    rank: int,
    *,
    method: str = "fast",
    tolerance: float = 1e-3,
    generator: torch.Generator | None = None,
) -> TruncatedSVD:
    """Return the top ``rank`` singular triplets, and a bound of their distance from the optimum.

    "fast" is a block Krylov method that grows its basis until the shortfall is proved to be at
    most ``tolerance``. It takes the full SVD instead where that is cheap (a shorter side of at most
    384) or needed (a rank above an eighth of the shorter side; no proof, and a shorter side of at
    most 1024). On larger matrices with a flat spectrum, iid noise for one, it stops at a basis of
    half the shorter side and returns what it has with the shortfall that it can prove, which is
    then above ``tolerance``: ask for "full" if that will not do.

    The shortfall holds but for a probability of 1e-6 over the generator's draws (always, for
    "full"), and up to rounding as ``triplets.py`` describes it. It supposes that products are
    computed in the matrix's dtype: TF32 and bfloat16 shortcuts void it.

    Args:
        matrix: A, 2-D, float32 or float64, on any device; it is only read. Extra memory is
            about (n + d) times the basis, which is 3 to 4 times the rank for decaying spectra.
        rank: r, 1 to min(n, d).
        method: "fast" or "full" (``torch.linalg.svd``).
        tolerance: The shortfall at which "fast" is content.
        generator: Source of the random start; by default a fixed seed. The same state gives the
            same result on the same machine.

    Raises:
        ValueError: The matrix is not 2-D, floating, or finite; rank, method or tolerance is out
            of range.
    """
    _check(matrix, rank, method, tolerance)
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), torch.autocast(matrix.device.type, enabled=False):
        scale, matrix, energy = _in_range(matrix.detach())
        tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT
        found = None
        if method == "fast" and energy and _fast_pays(tall.shape[1], rank):
            found = krylov_svd(tall, rank, tolerance, generator, energy)
            allowance = rounding_allowance(tall, found.s)
            if found.shortfall > provable(tall, found.s, tolerance) + allowance:
                found = found if tall.shape[1] > AFFORDABLE_FULL_SVD else None
        if found is None:
            found = _full(tall, rank) if energy else _zero(tall, rank)
        u, s, v = found.u, found.s, found.v
        if tall is not matrix:
            u, v = v, u
        largest = u.gather(0, u.abs().argmax(dim=0, keepdim=True))
        signs = torch.where(largest < 0, -1.0, 1.0).to(u.dtype)
        u, v = u * signs, v * signs
        return TruncatedSVD(
            u=u,
            s=s * scale,
            vt=v.mT.contiguous(),
            captured=float(s.double().square().sum()) / energy if energy else 1.0,
            shortfall=found.shortfall,
            defect=max(_defect(u), _defect(v)),
            method=found.method,
        )


def _full(matrix: Tensor, rank: int) -> Triplets:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = without_noise(matrix, s[:rank])
    return Triplets(u[:, :rank], s, vh[:rank].mT, rounding_allowance(matrix, s), "full")


def _zero(matrix: Tensor, rank: int) -> Triplets:
    def eye(rows: int) -> Tensor:
        return torch.eye(rows, rank, dtype=matrix.dtype, device=matrix.device)

    n, d = matrix.shape
    return Triplets(eye(n), matrix.new_zeros(rank), eye(d), 0.0, "full")


def _fast_pays(d: int, rank: int) -> bool:
    return d > QUICK_FULL_SVD and RANKS_A_SIDE * rank <= d


def _defect(columns: Tensor) -> float:
    columns = columns.double()
    identity = torch.eye(columns.shape[1], dtype=torch.float64, device=columns.device)
    return float(torch.linalg.matrix_norm(columns.mT @ columns - identity))


def _in_range(matrix: Tensor) -> tuple[float, Tensor, float]:
    """Return a scale, the matrix over it with squares that neither over- nor underflow, ‖·‖_F²."""
    energy = float(torch.linalg.vector_norm(matrix, dim=1).double().square().sum())
    if 1e-20 < energy < 1e30:
        return 1.0, matrix, energy
    largest = float(torch.linalg.vector_norm(matrix, ord=math.inf))
    if not math.isfinite(largest):
        raise ValueError("the matrix holds NaN or infinity")
    if largest == 0:
        return 1.0, matrix, 0.0
    matrix = matrix / largest
    energy = float(torch.linalg.vector_norm(matrix, dim=1).double().square().sum())
    return largest, matrix, energy


def _check(matrix: Tensor, rank: int, method: str, tolerance: float) -> None:
    if matrix.ndim != 2 or matrix.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"expected a 2-D float32 or float64 tensor, found {tuple(matrix.shape)} {matrix.dtype}"
        )
    if not 1 <= rank <= min(matrix.shape):
        raise ValueError(f"rank must be 1 to {min(matrix.shape)}, found {rank}")
    if method not in ("fast", "full"):
        raise ValueError(f'method must be "fast" or "full", found {method!r}')
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be between 0 and 1, found {tolerance}")
