"""What remains of the map behind a feed-forward block's neurons when some of them go.

The neurons J stay, P go. With S and Λ as in :mod:`.neurons`, the least cost is reached by::

    D' = D_J + D_P S_PJ (S_JJ + Λ_JJ)⁻¹,      b' = b + D μ − D' μ_J

and b' only where the block has an output bias. ε → ∞ leaves D_J. All of it is solved anew in
float64 for the neurons that stay, whatever found them.

Source: MoDeGPT (arXiv 2408.09632), where D' is ``D C_:J C_JJ⁻¹``: ε = 0 without a bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from surgery.choices.neurons import RIDGE
from surgery.methods.neurons import Amends, NeuronMoments, System, check_amends, root_of


@dataclass(frozen=True, eq=False)
class NarrowDown:
    """The map behind the neurons that stay.

    Attributes:
        kept: Which these are, ascending.
        down: D', ``(d, width)``: float64, but as it came where nothing went.
        bias: b', likewise; ``None`` where there is none.
    """

    kept: Int64[Tensor, " width"]
    down: Float[Tensor, "d width"]
    bias: Float[Tensor, " d"] | None


def narrow(
    down: Float[Tensor, "d f"],
    bias: Float[Tensor, " d"] | None,
    moments: NeuronMoments,
    kept: Int64[Tensor, " width"],
    *,
    amends: Amends = "refit",
    ridge: float = RIDGE,
) -> NarrowDown:
    """Return D' and b' for the neurons that stay.

    With all kept, ``down`` and ``bias`` themselves, bit for bit.

    Args:
        down: D, of any dtype, ``(out, in)``.
        bias: b; zeros where the block has none and may be given one.
        moments: Of the neurons, on D's device.
        kept: Those that stay, ascending.
        amends: What makes up for the others.
        ridge: ε.

    Raises:
        ValueError: Arguments contradict each other, or moments are those of no input.
    """
    check_amends(amends, bias is not None, ridge)
    f = down.shape[1]
    goes = torch.ones(f, dtype=torch.bool, device=down.device)
    goes[kept] = False
    if len(kept) + int(goes.sum()) != f or bool((kept.diff() <= 0).any()):
        raise ValueError("neurons to keep must be ascending, each once")
    if len(kept) == f:
        return NarrowDown(kept, down, bias)
    gone = goes.nonzero().squeeze(1)
    D = down.double()
    new = D[:, kept]
    if amends == "refit" and len(kept):
        system = System.of(moments, biased=bias is not None, ridge=ridge)
        new = new + _taken_over(D, system, kept, gone)
    if bias is None or amends == "none":
        return NarrowDown(kept, new, bias if bias is None else bias.double())
    shift = (D[:, kept] - new) @ moments.mean[kept] + D[:, gone] @ moments.mean[gone]
    return NarrowDown(kept, new, bias.double() + shift)


def output_error(
    down: Float[Tensor, "d f"],
    bias: Float[Tensor, " d"] | None,
    moments: NeuronMoments,
    result: NarrowDown,
) -> tuple[float, float]:
    """Return ``E‖y − y'‖²`` and ``E‖y‖²`` of a block on the input of some moments.

    These may be of other rows than those that the result was fitted to: so ridges are chosen.

    Args:
        down: D.
        bias: b.
        moments: On which input.
        result: What became of them.
    """
    lost = down.double().clone()
    whole = _energy(lost, torch.zeros_like(lost[:, 0]) if bias is None else bias, moments)
    lost[:, result.kept] -= result.down.double()
    shift = torch.zeros_like(lost[:, 0])
    if bias is not None and result.bias is not None:
        shift = bias.double() - result.bias.double()
    return _energy(lost, shift, moments), whole


def _taken_over(D: Tensor, system: System, kept: Tensor, gone: Tensor) -> Tensor:
    """Return ``D_P S_PJ (S_JJ + Λ_JJ)⁻¹``, through the scaled system."""
    dead = system.scale == 0  # no moment and no ridge: nothing is read there
    inverse = torch.where(dead, 0.0, 1 / torch.where(dead, 1.0, system.scale))
    met = (D[:, gone] * system.scale[gone]) @ system.matrix[gone[:, None], kept]
    root = root_of(system.matrix[kept[:, None], kept])
    return torch.cholesky_solve(met.mT, root).mT * inverse[kept]


def _energy(X: Tensor, shift: Tensor, moments: NeuronMoments) -> float:
    """Return ``E‖X h + shift‖²``."""
    shift = shift.double()
    squared = ((X @ moments.second) * X).sum() + 2 * shift @ (X @ moments.mean) + shift @ shift
    return max(0.0, float(squared))
