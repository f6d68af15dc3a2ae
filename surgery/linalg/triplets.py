"""What every way of finding singular triplets shares: their form, and what rounding hides.

Every product with A errs like a change of A by ``δ = sqrt(max(n, d)) eps ‖A‖₂`` in norm (Higham
and Mary 2019: rounding errors add up like a random walk). That moves each singular value by at
most δ, and the energy ``Σ s²`` of the leading ones by at most ``2 δ Σ s`` to first order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Triplets(NamedTuple):
    """Leading triplets of an (n, d) matrix, and what is proved of them.

    ``shortfall`` bounds ``(E* - Σ s²) / E*``, E* the most that any rank r captures; ``method``
    names the way they were found.
    """

    u: Float[Tensor, "n r"]
    s: Float[Tensor, " r"]
    v: Float[Tensor, "d r"]
    shortfall: float
    method: str


def rounding(matrix: Float[Tensor, "n d"]) -> float:
    """Return ``δ / ‖A‖₂``."""
    return math.sqrt(max(matrix.shape)) * torch.finfo(matrix.dtype).eps


def rounding_allowance(matrix: Float[Tensor, "n d"], s: Float[Tensor, " r"]) -> float:
    """Return what rounding may hide of the optimum, relative to it: ``2 δ Σ s / Σ s²``."""
    s = s.double()
    return float(2 * rounding(matrix) * s.amax() * s.sum() / s.square().sum())


def provable(matrix: Float[Tensor, "n d"], s: Float[Tensor, " r"], tolerance: float) -> float:
    """Return the shortfall to prove in exact arithmetic: what rounding leaves of the tolerance.

    Where it leaves less than it takes, as much as it takes: a closer proof would be in vain.
    """
    allowance = rounding_allowance(matrix, s)
    return max(tolerance - allowance, allowance)


def without_noise(matrix: Float[Tensor, "n d"], s: Float[Tensor, " r"]) -> Float[Tensor, " r"]:
    """Return s with zeros where rounding is all that is left."""
    return torch.where(s > rounding(matrix) * s.amax(), s, torch.zeros_like(s))
