"""Products of Householder reflections, in compact WY form: never a d×d matrix.

Notation: d = width, r = reflections, u (d, r), V = its unit columns,
``H = (I − 2 v_1 v_1ᵀ) … (I − 2 v_r v_rᵀ) = I − V T Vᵀ`` with the upper triangular
``T⁻¹ = ½ I + triu(VᵀV, 1)``. T always exists: its inverse has ½ on the diagonal.

A column whose norm is zero reflects nothing: it stands for the identity and has gradient zero.
Columns that are not finite are not looked for; they make every result NaN.

Source: HRA, arXiv 2405.17484; the compact WY form is Schreiber and Van Loan's (1989).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import no_autocast, project, working_dtype


def reflect(x: Tensor, u: Tensor) -> Tensor:
    """Apply the reflections to activations: ``x Hᵀ = x − ((x V) Tᵀ) Vᵀ``.

    Computed in float32 (float64 where ``x`` or ``u`` is), also under autocast. Costs O(d·r) a
    token and, for the backward pass, O(d·r + tokens·d) memory. Where adjacent columns of ``u``
    are equal pairs the result is ``x``, to rounding.

    Args:
        x: Activations ``(..., d)``, of any floating dtype and layout.
        u: Reflection vectors ``(d, r)`` of any length.

    Returns:
        ``(..., d)`` in the dtype of ``x``.
    """
    dtype = working_dtype(x, u)
    with no_autocast(x.device):
        unit, core = _compact_wy(u.to(dtype))
        tokens = x.reshape(-1, x.shape[-1])
        inner = project(tokens, unit) @ core.T
        turned = torch.addmm(tokens.to(dtype), inner, unit.T, alpha=-1)
    return turned.to(x.dtype).view(x.shape)


def reflect_weight(weight: Tensor, u: Tensor) -> Tensor:
    """Return ``W H``, with which ``x (W H)ᵀ = reflect(x, u) Wᵀ``.

    Args:
        weight: ``(out, d)``; computed in its dtype, which should be float32 or float64.
        u: Reflection vectors ``(d, r)``.
    """
    with no_autocast(weight.device):
        unit, core = _compact_wy(u.to(weight.dtype))
        return torch.addmm(weight, (weight @ unit) @ core, unit.T, alpha=-1)


def _compact_wy(u: Tensor) -> tuple[Tensor, Tensor]:
    """Return V ``(d, r)`` and T ``(r, r)``."""
    norms = torch.linalg.vector_norm(u, dim=0)
    unit = u / torch.where(norms > 0, norms, torch.ones_like(norms))
    identity = torch.eye(u.shape[1], dtype=u.dtype, device=u.device)
    inverse = (unit.T @ unit).triu(1) + 0.5 * identity
    return unit, torch.linalg.solve_triangular(inverse, identity, upper=True)
