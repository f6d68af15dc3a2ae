"""What remains of the map behind a feed-forward block's neurons when some of them go.

The neurons J stay, P go. With S and Λ as in :mod:`.neurons`, the least cost is reached by::

    D' = D_J + D_P S_PJ (S_JJ + Λ_JJ)⁻¹,      b' = b + D μ − D' μ_J

and b' only where the block has an output bias. ε → ∞ leaves D_J. All of it is solved anew in
float64 for the neurons that stay, whatever found them.

Where earlier blocks were cut, h is not what the original computed, and the block is to say what
the original's said, y, in spite of that (:class:`.neurons.Wanted`). So what is left of y is fitted
on top::

    D'' = D' + (E[y h_Jᵀ] − D' S_JJ)(S_JJ + λ' I)⁻¹,      b'' = E[y] − D'' μ_J

(both moments centred where there is a bias). Unlike D' this follows samples, and has a ridge λ' of
its own.

Source: MoDeGPT (arXiv 2408.09632), where D' is ``D C_:J C_JJ⁻¹``: ε = 0 without a bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from surgery.choices.neurons import RIDGE
from surgery.methods.neurons import Amends, NeuronMoments, System, Wanted, check_amends, root_of

ANCHOR = 0.03
"""λ', as a share of the mean second moment of the neurons that stay."""


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


def stacked(kept: Tensor, neurons: int, times: int) -> Tensor:
    """Return the rows of kept neurons in a map that holds all ``neurons`` that many times."""
    return torch.cat([kept + neurons * each for each in range(times)])


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


def anchored(result: NarrowDown, moments: NeuronMoments, ridge: float = ANCHOR) -> NarrowDown:
    """Fit a narrow block to what the original's said; as it is where nothing went.

    Args:
        result: What :func:`narrow` made with ``refit``.
        moments: Of all neurons, with what is wanted.
        ridge: λ' by its share.

    Raises:
        ValueError: The moments do not say what is wanted, or are those of no input.
    """
    wanted, kept, biased = moments.wanted, result.kept, result.bias is not None
    if wanted is None:
        raise ValueError("the moments do not say what the block is to say")
    if len(kept) == len(moments.mean):
        return result
    own = NeuronMoments(moments.second[kept[:, None], kept], moments.mean[kept])
    down, left = result.down.double(), wanted.crossed[:, kept] - result.down @ own.second
    if biased:
        left = left - torch.outer(wanted.mean - down @ own.mean, own.mean)
    if len(kept):
        system = System.of(own, biased=biased, ridge=ridge)
        down = down + _solved(left, system)
    return NarrowDown(kept, down, wanted.mean - down @ own.mean if biased else None)


def output_error(
    down: Float[Tensor, "d f"],
    bias: Float[Tensor, " d"] | None,
    moments: NeuronMoments,
    result: NarrowDown,
) -> tuple[float, float]:
    """Return ``E‖y − y'‖²`` and ``E‖y‖²`` of a block on the input of some moments.

    y is what they say is wanted, or else what the whole block makes of them. They may be of other
    rows than those that the result was fitted to: so ridges are chosen.

    Args:
        down: D.
        bias: b.
        moments: On which input.
        result: What became of them.
    """
    if moments.wanted is not None:
        return _missed(moments.wanted, moments, result), moments.wanted.energy
    lost = down.double().clone()
    whole = _energy(lost, torch.zeros_like(lost[:, 0]) if bias is None else bias, moments)
    lost[:, result.kept] -= result.down.double()
    shift = torch.zeros_like(lost[:, 0])
    if bias is not None and result.bias is not None:
        shift = bias.double() - result.bias.double()
    return _energy(lost, shift, moments), whole


def _taken_over(D: Tensor, system: System, kept: Tensor, gone: Tensor) -> Tensor:
    """Return ``D_P S_PJ (S_JJ + Λ_JJ)⁻¹``, through the scaled system."""
    met = (D[:, gone] * system.scale[gone]) @ system.matrix[gone[:, None], kept]
    root = root_of(system.matrix[kept[:, None], kept])
    return torch.cholesky_solve(met.mT, root).mT * _inverse(system.scale)[kept]


def _solved(left: Tensor, system: System) -> Tensor:
    """Return ``left (S + Λ)⁻¹``, through the scaled system."""
    inverse = _inverse(system.scale)
    return torch.cholesky_solve((left * inverse).mT, root_of(system.matrix)).mT * inverse


def _inverse(scale: Tensor) -> Tensor:
    dead = scale == 0  # no moment and no ridge: nothing is read there
    return torch.where(dead, 0.0, 1 / torch.where(dead, 1.0, scale))


def _missed(wanted: Wanted, moments: NeuronMoments, result: NarrowDown) -> float:
    """Return ``E‖y − D' h_J − b'‖²``."""
    kept, down = result.kept, result.down.double()
    bias = torch.zeros_like(wanted.mean) if result.bias is None else result.bias.double()
    said = _energy(
        down, bias, NeuronMoments(moments.second[kept[:, None], kept], moments.mean[kept])
    )
    met = (down * wanted.crossed[:, kept]).sum() + bias @ wanted.mean
    return max(0.0, wanted.energy - 2 * float(met) + said)


def _energy(X: Tensor, shift: Tensor, moments: NeuronMoments) -> float:
    """Return ``E‖X h + shift‖²``."""
    shift = shift.double()
    squared = ((X @ moments.second) * X).sum() + 2 * shift @ (X @ moments.mean) + shift @ shift
    return max(0.0, float(squared))
