"""How much a model's output minds errors of its blocks: of all of them by one backward pass.

Let a block add Δ_t to what it says at position t. To first order the output moves by
``Σ_t J_t Δ_t``. With a random probe v of the output, ``E v vᵀ = I``, and ``g_t = J_tᵀ v``, the
squared movement is ``E_v (Σ_t g_tᵀ Δ_t)²``, and, errors of different positions taken to be
independent of each other and of g,::

    damage ≈ tr(E[Δ Δᵀ] A),        A ∝ Σ_t g_t g_tᵀ

A is one *metric* a block, w × w. For a relative error v is Gaussian, and A is divided by the
variance of the output. For a divergence in nats, ``v = p − onehot(y)`` with ``y ~ p`` is the
gradient of the log-likelihood of a sampled token, whose second moment is the Fisher matrix:
``KL ≈ ½ E (gᵀ Δ)²``.

Errors within a block compare by A as its units do, and errors of all blocks compare with each
other: no trial is made. What is beyond first order, and what blocks do to each other's errors, it
does not see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from surgery.calibration.witness import Inputs
from surgery.errors import SurgeryError
from surgery.evaluation.drift import RelativeError
from surgery.evaluation.layers import hooked
from surgery.events import Event, Progress, ignore

STAGE = "Watching what the output minds"
SEED = 0
TINY = 1e-300
FLOOR = 1e-3
"""Share of white noise in a metric: directions that few probes show are not free."""


def output_metrics(
    inputs: Inputs,
    modules: Mapping[str, nn.Module],
    progress: Progress = ignore,
    *,
    probes: int = 1,
    seed: int = SEED,
) -> dict[str, Float64[Tensor, "w w"]]:
    """Return A of every block, so that ``tr(E[Δ Δᵀ] A)`` is a damage as a witness measures it.

    E is the mean over the positions that a block runs on. How many of them there are for each of
    the output's is part of A.

    Args:
        inputs: What the model is run on.
        modules: By the block's name the module whose output it adds to the stream.
        progress: Receives one event a batch.
        probes: How many are drawn for each input.
        seed: Of the probes.

    Raises:
        SurgeryError: A gradient is NaN or infinity; or a block was not run.
    """
    sums = dict[str, Tensor]()
    relative = inputs.output != "next token"
    positions, varied = 0, RelativeError()
    generator = torch.Generator(device=inputs.model.device).manual_seed(seed)
    total = probes * len(inputs)
    for probe in range(probes):
        with torch.enable_grad(), _frozen(inputs.model), _hearing_back(modules, sums):
            for number, rows in enumerate(inputs.rows()):
                progress(Event(STAGE, probe * len(inputs) + number, total))
                positions += len(rows)
                if relative:
                    varied.add(rows, rows)
                _backward(rows, inputs.output, generator)
    progress(Event(STAGE, total, total))
    scale = 1.0 / max(varied.spread, TINY) if relative else 0.5 / max(1, positions)
    found = {}
    for name in modules:
        metric = sums.get(name)
        if metric is None or not bool(metric.isfinite().all()):
            raise SurgeryError(
                "What the output minds of a block cannot be told",
                where=name,
                found="no gradient" if metric is None else "NaN or infinity",
                hint="run the original model in float32, and look for damaged weights",
            )
        metric = metric.cpu() * scale
        white = FLOOR * float(metric.diagonal().mean())
        found[name] = (1 - FLOOR) * metric + white * torch.eye(len(metric), dtype=metric.dtype)
    return found


def _backward(rows: Tensor, output: str, generator: torch.Generator) -> None:
    """Send one probe of the output back."""
    if output == "next token":
        logits = rows.float()
        with torch.no_grad():
            token = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(1)
        objective = torch.nn.functional.cross_entropy(logits, token, reduction="sum")
    else:
        drawn = torch.randn(rows.shape, generator=generator, device=rows.device, dtype=rows.dtype)
        objective = (rows * drawn).sum()
    torch.autograd.backward(objective)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Ask for no gradient of a weight."""
    asked = [each for each in model.parameters() if each.requires_grad]
    for each in asked:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in asked:
            each.requires_grad_(True)


@contextmanager
def _hearing_back(modules: Mapping[str, nn.Module], sums: dict[str, Tensor]) -> Iterator[None]:
    """Sum outer products of the gradients at each module's output."""

    def attach(name: str, module: nn.Module) -> Any:
        def heard(gradient: Tensor) -> None:
            rows = gradient.detach().flatten(0, -2)
            device = torch.device("cpu") if rows.device.type == "mps" else rows.device
            rows = rows.to(device, torch.float64)
            product = rows.mT @ rows
            sums[name] = product if name not in sums else sums[name].add_(product)

        def said(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            if not output.requires_grad:  # weights are frozen, and nothing before it was heard
                output.requires_grad_(True)
            output.register_hook(heard)  # type: ignore[no-untyped-call]

        return module.register_forward_hook(said)

    with hooked([attach(name, module) for name, module in modules.items()]):
        yield
