"""Moments as plain tensors, to be kept while a run goes on and taken up by one that resumes it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from surgery.calibration.moments import MOMENTS, Moments

_COUNTS = "counts"


def to_tensors(moments: Mapping[str, Moments]) -> dict[str, Tensor]:
    """Return the moments of blocks by ``path/name``, and how much is behind them."""
    tensors: dict[str, Tensor] = {}
    for path, each in moments.items():
        tensors |= {f"{path}/{name}": getattr(each, name).contiguous() for name in MOMENTS}
        counts = [each.queries, each.sequences]
        tensors[f"{path}/{_COUNTS}"] = torch.tensor(counts, dtype=torch.float64)
    return tensors


def from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Moments]:
    """Return what :func:`to_tensors` was given."""
    moments: dict[str, Moments] = {}
    for path in sorted(
        name.removesuffix(f"/{_COUNTS}") for name in tensors if name.endswith(_COUNTS)
    ):
        q, k, c = (tensors[f"{path}/{name}"].clone() for name in MOMENTS)
        queries, sequences = tensors[f"{path}/{_COUNTS}"].tolist()
        moments[path] = Moments(q, k, c, queries, int(sequences))
    return moments
