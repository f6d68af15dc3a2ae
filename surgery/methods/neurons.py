"""Which neurons of a feed-forward block go first, and what that costs, for every width at once.

A block is ``y = D h + b``: h its f neurons on real input, D the map behind them (``down``), b its
bias where it has one. Of h only the moments ``C = E[h hᵀ]`` and ``μ = E[h]`` are needed. When the
neurons P go and J stay, what D' reads can make up for the rest (:mod:`.neuron_refit`)::

    ΔD = D − D',   cost = tr(ΔD S ΔDᵀ) + tr(ΔD Λ ΔDᵀ),   Λ = λI + δ diag(C),   λ = ε tr(S)/f

where S is C, or the covariance ``C − μμᵀ`` where there is an output bias to take the mean. The
first term is then exactly ``E‖y − y'‖²``. The ridge ε keeps what few samples show from being
believed; it pulls D' towards D_J, never towards zero. δ is of rounding's size, so that dead,
constant and duplicate neurons are ordinary input at any ε, 0 too.

Orders, by what goes first (each with refit or without):

- ``surgeon``: what is cheapest by ``e_i = ‖D_:i‖² / [(S + Λ)⁻¹]_ii`` for what is left, D and S+Λ
  being those of the refitted block (optimal brain surgeon, as in SlimGPT and ZipLM). Greedy.
- ``magnitude``: ``‖D_:i‖``. By weights alone, and bad on language models.
- ``activation``: ``‖D_:i‖ √C_ii`` (Wanda, arXiv 2306.11695, for whole columns).
- ``leverage``: ``1 − [Λ (S + Λ)⁻¹]_ii`` (MoDeGPT, arXiv 2408.09632, type I). Ignores D.
- ``variance``: ``Var(h_i) ‖D_:i‖²`` (FLAP, arXiv 2312.11983).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from surgery.choices.neurons import ORDERS, RIDGE, Order
from surgery.linalg.elimination import BLOCK, cheapest_first
from surgery.linalg.metrics import symmetric_root
from surgery.linalg.ordered import deleted_prices, refitted_prices
from surgery.methods.hull import lower_hull

Amends = Literal["refit", "mean", "none"]
"""What makes up for neurons that go: D' and b', b' alone (``b + D_P μ_P``), or nothing."""

AMENDS: tuple[Amends, ...] = get_args(Amends)

ROUNDING = 8
"""δ, in roundings of float64 a neuron."""
LARGE = 4096
"""Neurons above which the order is found in float32; prices and refit are float64 all the same."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """What the original's block said at the positions at which neurons were watched; float64.

    Attributes:
        crossed: ``E[y hᵀ]``, y being the original's output, its bias included, and h the neurons
            that were watched, behind blocks that had been cut.
        mean: ``E[y]``.
        energy: ``E‖y‖²``.
    """

    crossed: Float64[Tensor, "d f"]
    mean: Float64[Tensor, " d"]
    energy: float


@dataclass(frozen=True, eq=False)
class NeuronMoments:
    """What the neurons of one block did on real input; float64.

    Attributes:
        second: C, weighted mean of ``h hᵀ``, symmetric.
        mean: μ, weighted mean of h.
        weight: Sum of the weights of the positions behind them.
        wanted: What the block is to say where that is not what D and b make of these neurons.
    """

    second: Float64[Tensor, "f f"]
    mean: Float64[Tensor, " f"]
    weight: float = 1.0
    wanted: Wanted | None = None

    def centred(self) -> Float64[Tensor, "f f"]:
        """Return the covariance ``C − μμᵀ``, a copy."""
        return torch.addr(self.second, self.mean, self.mean, alpha=-1)


@dataclass(frozen=True, eq=False)
class Elimination:
    """All neurons of one block in the order in which they go, and what each costs.

    Attributes:
        order: First to go first.
        prices: What each adds to the cost when it goes, in ``order``; float64. With refit at least
            0, and never sure to rise.
        amends: What makes up for them in these prices.
        ridge: ε; prices without refit are of ε = 0.
    """

    order: Int64[Tensor, " f"]
    prices: Float64[Tensor, " f"]
    amends: Amends
    ridge: float

    def kept(self, width: int) -> Int64[Tensor, " width"]:
        """Return the neurons that stay at a width, ascending. Narrower sets are parts of wider."""
        return kept_of(self.order, width)

    def costs(self) -> Float64[Tensor, " widths"]:
        """Return the cost of every width, 0 to f: entry w that of keeping w neurons."""
        return costs_of(self.prices)

    def worthwhile(self, widths: Sequence[int] | None = None) -> list[tuple[int, float]]:
        """Return the widths that a budget should choose among, widest first, with their costs.

        Those on the lower convex hull of the costs: between two of them, each width is dearer than
        a mixture of both, so no budget over several blocks gains by it. The price of a neuron
        rises from one to the next.

        Args:
            widths: Those allowed; by default all. The widest and the narrowest are always on the
                hull, others that cost more than a narrower one never.
        """
        costs = self.costs().tolist()
        allowed = sorted({*(range(len(costs)) if widths is None else widths)}, reverse=True)
        if allowed and not 0 <= allowed[-1] <= allowed[0] < len(costs):
            raise ValueError(f"widths {allowed[-1]} to {allowed[0]} of {len(costs) - 1}")
        return lower_hull([(width, costs[width]) for width in allowed])


def kept_of(order: Int64[Tensor, " f"], width: int) -> Int64[Tensor, " width"]:
    """Return the neurons that stay at a width, ascending, from the order in which all go."""
    if not 0 <= width <= len(order):
        raise ValueError(f"width {width} of {len(order)}")
    return order[len(order) - width :].sort().values


def costs_of(prices: Float64[Tensor, " f"]) -> Float64[Tensor, " widths"]:
    """Return the cost of every width, 0 to f, from what each neuron costs as it goes."""
    return torch.cat([prices.new_zeros(1), prices.cumsum(0)]).flip(0)


def eliminate(
    down: Float[Tensor, "d f"],
    moments: NeuronMoments,
    *,
    biased: bool,
    order: Order = "surgeon",
    amends: Amends = "refit",
    ridge: float = RIDGE,
    metric: Float64[Tensor, "d d"] | None = None,
    working: torch.dtype | None = None,
    block: int = BLOCK,
) -> Elimination:
    """Order the neurons of one block, and price every width.

    At its peak it holds about five matrices of f × f in float64, the moments among them.

    Args:
        down: D, of any dtype, ``(out, in)``.
        moments: Of the neurons, on D's device.
        biased: Whether the block has an output bias, or may be given one.
        order: By what neurons go.
        amends: What makes up for them. ``mean`` needs a bias.
        ridge: ε.
        metric: A, symmetric, at least 0: an error Δ of the block counts ``Δᵀ A Δ``, as the model's
            output minds it (:mod:`surgery.calibration.output_metric`), and not ``‖Δ‖²``. Which D'
            makes up best for given neurons does not depend on it, nor do orders but ``surgeon``.
        working: In which dtype ``surgeon`` looks for its order; by default float64 up to
            ``LARGE`` neurons and float32 above. Its prices are float64 in any case.
        block: See :func:`surgery.linalg.elimination.cheapest_first`.

    Raises:
        ValueError: Arguments contradict each other, or moments are not finite, or not those of any
            input.
    """
    check_amends(amends, biased, ridge)
    D = down.double()
    minded = D if metric is None else symmetric_root(metric) @ D
    system = System.of(moments, biased=biased, ridge=ridge)
    if order == "surgeon":
        found = _surgeon(minded, system, working, block)
    else:
        found = _scores(D, moments, system, order).argsort(stable=True)
    if amends == "refit":
        prices = refitted_prices(system.matrix, minded * system.scale, found)
    else:
        del system
        left = moments.centred() if amends == "mean" else moments.second
        prices = deleted_prices(left, minded, found)
    return Elimination(found, prices, amends, ridge)


@dataclass(frozen=True, eq=False)
class System:
    """``S + Λ`` brought to a diagonal of ones, so that loud neurons cost the others no digits.

    Attributes:
        matrix: ``(S + Λ)_ij / (s_i s_j)``; positive definite.
        scale: ``s_i``, the root of the diagonal of S + Λ.
        ridge: λ.
    """

    matrix: Float64[Tensor, "f f"]
    scale: Float64[Tensor, " f"]
    ridge: float

    @classmethod
    def of(cls, moments: NeuronMoments, *, biased: bool, ridge: float) -> System:
        """Build it from the moments of a block.

        Raises:
            ValueError: A moment is not finite, or a variance is negative beyond rounding.
        """
        matrix = moments.centred() if biased else moments.second.clone()
        if not bool(matrix.isfinite().all()):
            raise ValueError("moments of neurons hold NaN or infinity")
        slack = ROUNDING * len(matrix) * torch.finfo(matrix.dtype).eps * moments.second.diagonal()
        variances = matrix.diagonal().clone()
        if bool((variances < -slack).any()):
            raise ValueError("a neuron has a negative variance")
        variances.clamp_(min=0)
        damping = ridge * float(variances.mean())
        scale = (variances + slack + damping).sqrt()
        safe = torch.where(scale > 0, scale, torch.ones_like(scale))
        matrix.div_(safe[:, None]).div_(safe)
        matrix.diagonal().fill_(1.0)
        return cls(matrix, scale, damping)

    def inverse(self) -> Float64[Tensor, "f f"]:
        """Return the inverse of ``matrix``.

        Raises:
            ValueError: It is not positive definite.
        """
        return torch.cholesky_inverse(root_of(self.matrix))


def root_of(matrix: Float64[Tensor, "n n"]) -> Float64[Tensor, "n n"]:
    """Return the lower Cholesky root.

    Raises:
        ValueError: The matrix is not positive definite.
    """
    root: Tensor
    root, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        raise ValueError("moments of neurons are those of no input: they have negative eigenvalues")
    return root


def _surgeon(D: Tensor, system: System, working: torch.dtype | None, block: int) -> Tensor:
    if working is None:
        working = torch.float32 if D.shape[1] > LARGE else torch.float64
    columns = (D * system.scale).mT
    largest = columns.abs().max()  # whatever the units are, float32 can hold them
    columns = (columns / torch.where(largest > 0, largest, 1.0)).to(working).contiguous()
    return cheapest_first(system.inverse().to(working), columns, block=block, least=1.0)


def _scores(D: Tensor, moments: NeuronMoments, system: System, order: Order) -> Tensor:
    """Return what a neuron is worth; the least goes first."""
    norms = D.square().sum(dim=0)
    if order == "magnitude":
        return norms
    if order == "activation":
        return norms * moments.second.diagonal()
    if order == "variance":
        return norms * (moments.second.diagonal() - moments.mean.square())
    if order == "leverage":
        scale = system.scale.square()
        own = torch.where(scale > 0, system.ridge / scale, torch.ones_like(scale))
        return -own * system.inverse().diagonal()
    raise ValueError(f"{order!r} is none of {', '.join(ORDERS)}")


def check_amends(amends: Amends, biased: bool, ridge: float) -> None:
    """Refuse what contradicts itself.

    Raises:
        ValueError: It does.
    """
    if amends not in AMENDS:
        raise ValueError(f"{amends!r} is none of {', '.join(AMENDS)}")
    if amends == "mean" and not biased:
        raise ValueError("there is no bias to take the mean of neurons that go")
    if not (0 <= ridge < float("inf")):
        raise ValueError(f"a ridge of {ridge}")
