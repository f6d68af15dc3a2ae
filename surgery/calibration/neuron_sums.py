"""Second moments of one feed-forward block's neurons, added up batch by batch in float64."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from surgery.errors import SurgeryError
from surgery.methods.neurons import NeuronMoments, Wanted

AT_ONCE = 1 << 23
"""Numbers copied to float64 at once (64 MB)."""
COLUMNS = 1024
"""Neurons whose products are formed at once: of those above the diagonal none is formed."""


class NeuronSums:
    """Running sums of one block's moments, in float64 where the activations are.

    On the CPU for a device without float64. Activations may be of any dtype: each is converted
    before anything is computed from it.

    Args:
        neurons: f.
    """

    def __init__(self, neurons: int) -> None:
        self.neurons, self.weight = neurons, 0.0
        self._second: Tensor | None = None
        self._mean = torch.zeros(neurons, dtype=torch.float64)
        self._crossed, self._said = (torch.zeros((), dtype=torch.float64) for _ in range(2))
        self._energy: float | None = None

    def add(
        self,
        h: Float[Tensor, "b t f"],
        weights: Float64[Tensor, "b t"],
        wanted: Float[Tensor, "b t d"] | None = None,
    ) -> None:
        """Add what the neurons did at some positions, which count ``weights``, 0 or more.

        Args:
            h: What they did.
            weights: On the CPU.
            wanted: What the block is to say there; given for all positions or for none.
        """
        counted = weights > 0
        rows = h[counted.to(h.device)]
        said = None if wanted is None else wanted[counted.to(wanted.device)]
        weight = weights[counted]
        self.weight += float(weight.sum())
        step = max(1, AT_ONCE // self.neurons)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            self._add(rows[part], weight[part], None if said is None else said[part])

    def moments(self, where: str) -> NeuronMoments:
        """Return the means, on the CPU, and let go of the sums.

        Args:
            where: The block's name, for messages.

        Raises:
            SurgeryError: Nothing was added, or NaN or infinity was.
        """
        second, self._second = self._second, None
        if second is None:
            raise SurgeryError(
                "Calibration saw no input of a feed-forward block.",
                where=where,
                found="no position of positive weight",
                hint="calibrate on more data",
            )
        second = second.cpu().div_(self.weight)
        mean = self._mean.cpu() / self.weight
        if not bool(second.diagonal().isfinite().all()):
            raise SurgeryError(
                "A feed-forward block computed NaN or infinity on the calibration data.",
                where=where,
                hint="run the original model in float32, and look for damaged weights",
            )
        for start in range(0, self.neurons, COLUMNS):  # the other half
            part = slice(start, start + COLUMNS)
            end = min(start + COLUMNS, self.neurons)
            second[part, end:] = second[end:, part].mT
            second[part, part] = second[part, part].tril() + second[part, part].tril(-1).mT
        wanted = None
        if self._energy is not None:
            crossed, said = (one.cpu() / self.weight for one in (self._crossed, self._said))
            wanted = Wanted(crossed, said, self._energy / self.weight)
        return NeuronMoments(second, mean, self.weight, wanted)

    def _add(self, h: Tensor, weights: Tensor, said: Tensor | None) -> None:
        device = torch.device("cpu") if h.device.type == "mps" else h.device
        rows = h.to(device, torch.float64)
        weighted = rows * weights.to(device)[:, None]
        if self._second is None:
            self._second = rows.new_zeros(self.neurons, self.neurons)
            self._mean = self._mean.to(device)
        self._mean += weighted.sum(dim=0)
        for start in range(0, self.neurons, COLUMNS):
            part = slice(start, start + COLUMNS)
            self._second[start:, part].addmm_(weighted[:, start:].mT, rows[:, part])
        if said is not None:
            wanted = said.to(device, torch.float64)
            self._crossed = self._crossed.to(device) + wanted.mT @ weighted
            self._said = self._said.to(device) + weights.to(device) @ wanted
            energy = weights.to(device) @ wanted.square().sum(dim=1)
            self._energy = (self._energy or 0.0) + float(energy)
