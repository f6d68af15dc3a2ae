"""The leading singular triplets of one matrix, with a bound of what they miss of the optimum.

``A ≈ U diag(s) Vᵀ`` of rank r captures the energy ``Σ s²`` of ``‖A‖_F²``; the most that any rank-r
matrix can capture is ``E* = Σ_{i≤r} σ_i²`` (Eckart and Young). The fast way never sees the σ_i,
so it proves a bound of E* instead (``certificate.py``) and works until that bound is close.

Rounding: every product with A errs like a change of A by ``δ = sqrt(max(n, d)) eps ‖A‖₂`` in norm
(Higham and Mary 2019: rounding errors add up like a random walk), which moves each σ_i by at most
δ and E* by at most ``2 δ Σ s_i`` to first order. That is added to each shortfall.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.linalg.certificate import least_overlap, missed_bound, optimum_bound
from surgery.linalg.krylov import BlockLanczos, orthonormal_rows

FAILURE_PROBABILITY = 1e-6
"""Probability, over the generator's draws, that a certified shortfall is too small."""

QUICK_FULL_SVD = 256
"""Shorter side up to which the full SVD takes milliseconds, and nothing else is tried."""

AFFORDABLE_FULL_SVD = 1024
"""Shorter side up to which the full SVD takes at most about a second: the way out there."""

PROBE_BLOCK = 48
"""Columns of the run that bounds what the basis misses."""

PROBE_STEPS = 5
"""Its most steps."""

LAST_BLOCK_SEES = 1.15
"""What the basis misses, over what its latest block sees of it: 1.0 to 1.3 in practice."""

PROVABLE = 0.74
"""Share of the r-th Ritz value below which what is missed must lie for a proof at 1e-3."""


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
    matrix: Float[Tensor, "n d"],
    rank: int,
    *,
    method: Literal["fast", "full"] = "fast",
    tolerance: float = 1e-3,
    generator: torch.Generator | None = None,
) -> TruncatedSVD:
    """Return the top ``rank`` singular triplets, and a bound of their distance from the optimum.

    "fast" is a block Krylov method that grows its basis until the shortfall is proved to be at
    most ``tolerance``. It takes the full SVD instead where that is cheap (a shorter side of at most
    256) or needed (a rank above an eighth of the shorter side; no proof, and a shorter side of at
    most 1024). On larger matrices with a flat spectrum, iid noise for one, it stops at a basis of
    half the shorter side and returns what it has with the shortfall that it can prove, which is
    then above ``tolerance``: ask for "full" if that will not do.

    The shortfall holds but for a probability of 1e-6 over the generator's draws (always, for
    "full"), and up to rounding as the module describes. It supposes that products are computed in
    the matrix's dtype: TF32 and bfloat16 shortcuts void it.

    Args:
        matrix: A, float32 or float64, of any shape and device; it is only read. Extra memory is
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
            if found.shortfall > _provable(tall, found.s, tolerance) + allowance:
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


class Triplets(NamedTuple):
    """U (n, r), s (r,), V (d, r) as columns, the proved shortfall and the way they were found."""

    u: Tensor
    s: Tensor
    v: Tensor
    shortfall: float
    method: str


def krylov_svd(
    matrix: Float[Tensor, "n d"],
    rank: int,
    tolerance: float,
    generator: torch.Generator,
    energy: float,
    *,
    block: int | None = None,
) -> Triplets:
    """Find the triplets in a Krylov space, of up to half of d, that grows until it is enough.

    Args:
        matrix: A, d ≤ n, not zero, of moderate norm.
        rank: At most ``d // 8``.
        tolerance: The shortfall to reach.
        generator: Source of Gaussian blocks.
        energy: ``‖A‖_F²``.
        block: Rows a step adds; by default three eighths of the rank.
    """
    d = matrix.shape[1]
    block = block or _block(rank)
    run = BlockLanczos(matrix, block, d // 2 // block * block, generator, keep_images=True)
    bound, missed, check_at, probes = energy, math.inf, rank * 5 // 2, 0
    while True:
        run.expand()
        last = run.size == run.capacity
        if run.size < min(check_at, run.capacity):
            continue
        # In the matrix's dtype: a quick look whether a proof is worth its cost.
        least = float(torch.linalg.eigvalsh(run.projected.to(matrix.dtype))[-rank])
        guess = LAST_BLOCK_SEES * float(torch.linalg.eigvalsh(run.diagonal[-1])[-1])
        check_at = run.size + max(block, run.size // (8 if guess > least else 16))
        if guess > PROVABLE * least and missed > least and not last:
            continue
        ritz, vectors = torch.linalg.eigh(run.projected)
        top = ritz[-rank:].clamp_min(0)
        goal = float(top.sum()) / (1 - _provable(matrix, top.sqrt(), tolerance))
        promising = True
        if missed < math.inf:  # what an earlier, smaller basis misses bounds what this one does
            bound = min(bound, optimum_bound(run.projected, run.coupling[-1], missed, rank))
            promising = optimum_bound(run.projected, run.coupling[-1], guess, rank) <= goal
        if bound > goal and (promising or last):
            probes += 1
            failure = FAILURE_PROBABILITY * 0.5**probes
            proof = _probe(run, rank, float(top[0]), float(top[-1]), goal, failure, generator)
            missed, bound = min(missed, proof[0]), min(bound, proof[1])
        if bound <= goal or last:
            return _from_basis(run, vectors[:, -rank:].flip(1), bound)


def _probe(
    run: BlockLanczos,
    rank: int,
    least: float,
    largest: float,
    goal: float,
    failure: float,
    generator: torch.Generator,
) -> tuple[float, float]:
    """Return bounds of what the basis misses and of the optimum: the latter ≤ goal if it can."""
    room = run.matrix.shape[1] - run.size
    block = max(1, min(PROBE_BLOCK, room // (PROBE_STEPS + 1)))
    overlap = least_overlap(block, room, failure)
    other = BlockLanczos(run.matrix, block, block * PROBE_STEPS, generator, deflated=run.basis)
    error = rounding(run.matrix) * math.sqrt(largest)
    missed = bound = math.inf
    for step in range(1, PROBE_STEPS + 1):
        other.expand()
        if step < 2:
            continue
        missed = min(missed, (math.sqrt(missed_bound(other, overlap)) + error) ** 2)
        if missed > least and step < PROBE_STEPS:
            continue
        bound = min(bound, optimum_bound(run.projected, run.coupling[-1], missed, rank))
        if bound <= goal:
            break
    return missed, bound


def _from_basis(run: BlockLanczos, vectors: Float[Tensor, "m r"], bound: float) -> Triplets:
    """Return the best rank-r triplets in the basis, given T's leading eigenvectors."""
    dtype = run.matrix.dtype
    vectors = vectors.to(dtype)
    v = run.basis.mT @ vectors
    image = torch.zeros_like(run.matrix[:, :1]).expand(-1, v.shape[1]).clone()
    for part, rows in zip(run.images, torch.split(vectors, run.block), strict=True):
        image.addmm_(part, rows)
    # A V = U s once more, by QR and a small SVD: T knows s² only to the rounding of s_1².
    left = orthonormal_rows(image.mT)
    core_u, s, core_vh = torch.linalg.svd(left @ image.double())
    u = (left.mT @ core_u).to(dtype)
    v = orthonormal_rows(core_vh @ v.double().mT).mT.to(dtype)
    s = _without_noise(run.matrix, s)
    shortfall = max(0.0, 1 - float(s.square().sum()) / bound)
    return Triplets(u, s.to(dtype), v, shortfall + rounding_allowance(run.matrix, s), "krylov")


def _full(matrix: Tensor, rank: int) -> Triplets:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = _without_noise(matrix, s[:rank])
    return Triplets(u[:, :rank], s, vh[:rank].mT, rounding_allowance(matrix, s), "full")


def _zero(matrix: Tensor, rank: int) -> Triplets:
    def eye(rows: int) -> Tensor:
        return torch.eye(rows, rank, dtype=matrix.dtype, device=matrix.device)

    n, d = matrix.shape
    return Triplets(eye(n), matrix.new_zeros(rank), eye(d), 0.0, "full")


def _block(rank: int) -> int:
    """Return a Lanczos block's rows: narrow ones converge in fewer, wide ones run faster."""
    return max(8, min(64, rank * 3 // 8))


def _fast_pays(d: int, rank: int) -> bool:
    return d > QUICK_FULL_SVD and 8 * rank <= d


def rounding(matrix: Tensor) -> float:
    """Return δ / ‖A‖₂ of the module's docstring."""
    return math.sqrt(max(matrix.shape)) * torch.finfo(matrix.dtype).eps


def rounding_allowance(matrix: Tensor, s: Float[Tensor, " r"]) -> float:
    """Return what rounding may hide of the optimum, relative to it: ``2 δ Σ s / Σ s²``."""
    s = s.double()
    return float(2 * rounding(matrix) * s.amax() * s.sum() / s.square().sum())


def _provable(matrix: Tensor, s: Tensor, tolerance: float) -> float:
    """Return the shortfall to prove in exact arithmetic: what rounding leaves of the tolerance.

    Where it leaves less than itself, no more than itself: the rest would be in vain.
    """
    allowance = rounding_allowance(matrix, s)
    return max(tolerance - allowance, allowance)


def _without_noise(matrix: Tensor, s: Tensor) -> Tensor:
    return torch.where(s > rounding(matrix) * s.amax(), s, torch.zeros_like(s))


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
