"""What the output minds of errors of its blocks, against Jacobians row by row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surgery.calibration.modules import AttentionModules
from surgery.calibration.output_metric import FLOOR, output_metrics
from surgery.calibration.witness import Witness, inputs_of
from tests.calibration.oracle import Letters, sites_of
from tests.calibration.test_witness import text
from tests.models import tiny_model

TEXTS = ("a b", "the")
PROBES = 200
# A mean of squares over so many probes; and a floor of white noise is mixed in.
LOOSE = 0.2


@contextmanager
def disturbed(module: nn.Module, seed: int) -> Iterator[list[Tensor]]:
    """Add a little noise to what a module says, and keep it: (positions, width) a batch."""
    draw, added = torch.Generator().manual_seed(seed), list[Tensor]()

    def hear(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        added.append(1e-2 * torch.randn(output.shape, generator=draw, dtype=output.dtype))
        return output + added[-1]

    handle = module.register_forward_hook(hear)
    try:
        yield added
    finally:
        handle.remove()


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "gpt2-unprefixed"])
def test_small_errors_do_the_damage_that_the_metric_says(name: str) -> None:
    model: Any = tiny_model(name, dtype=torch.float64)
    model.requires_grad_(False)
    sites = sites_of(model)
    modules = {site.path: AttentionModules(model, site).projections["o"] for site in sites}
    inputs = inputs_of(model, sites, text(*TEXTS), Letters(), batch=1)
    metrics = output_metrics(inputs, modules, probes=PROBES)
    exact = _summed_jacobians(inputs, modules[sites[0].path])
    found = metrics[sites[0].path]
    assert float((found - exact).norm() / exact.norm()) < LOOSE + FLOOR
    seen, told, happened = Witness(inputs), 0.0, 0.0
    for seed in range(16):
        with disturbed(modules[sites[0].path], seed) as added:
            happened += seen.damage()
        error = torch.cat([each.flatten(0, 1) for each in added])
        told += float(torch.einsum("tw,wv,tv->", error, found, error)) / len(error)
    assert told == pytest.approx(happened, rel=0.35)


def _summed_jacobians(inputs: Any, module: nn.Module) -> Tensor:
    """Return A by one backward pass for every number of the output."""
    total, count, rows_of = torch.zeros((), dtype=torch.float64), 0, []
    for number in range(len(TEXTS)):
        held: list[Tensor] = []
        handle = module.register_forward_hook(
            lambda _, __, output, held=held: held.append(output.requires_grad_(True))
        )
        rows = list(inputs.rows())[number]
        handle.remove()
        rows_of.append(rows.detach())
        count += len(rows)
        if inputs.output == "next token":
            logs, chances = rows.log_softmax(-1).flatten(), rows.detach().softmax(-1).flatten()
        else:
            logs, chances = rows.flatten(), torch.ones(rows.numel(), dtype=torch.float64)
        for value, chance in zip(logs, chances, strict=True):
            (g,) = torch.autograd.grad(value, held[number], retain_graph=True)
            total = total + chance * g[0].mT @ g[0]
    if inputs.output == "next token":
        return 0.5 * total / count
    said = torch.cat(rows_of)
    return total / (said - said.mean(dim=0)).square().sum()
