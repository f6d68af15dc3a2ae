"""How long does it take to order the neurons of one block and price every width, and how exact?

    OMP_NUM_THREADS=2 python benchmarks/neuron_elimination.py [--sizes 1536 4096 8192 11008]
        [--width 4096] [--threads 2] [--compare 2048] [--ridge 0.01]

Makes moments of a gated block, ``h = silu(G x) ⊙ (U x)``, on 1.5·f inputs x whose coordinates fall
as a power law and whose length is heavy-tailed, as a residual stream's is; a tenth of the neurons
are dead or copies of others. Prints, for each f, minutes on the clock and of the processor (what a
busy machine leaves out), for: the inverse of S + Λ in float64, the order by ``cheapest_first`` in
float32, its prices in float64; then of ``narrow`` to three quarters of the neurons.

At ``--compare`` neurons everything is also done with an order found in float64. Prices and refit
are float64 in both, so what is compared is what the choice of neurons costs: the largest relative
difference of the costs over all widths that keep half or more; and how far prices are that float32
itself would have given, and the closed form solved in float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from surgery.linalg.elimination import cheapest_first
from surgery.linalg.ordered import refitted_prices
from surgery.methods.neuron_refit import narrow
from surgery.methods.neurons import NeuronMoments, System, eliminate


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[1536, 4096, 8192, 11008])
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compare", type=int, default=2048)
    parser.add_argument("--ridge", type=float, default=0.01)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.compare:
        compare(options.compare, options.width, options.ridge)
    print(f"\n{options.threads} threads, d = {options.width}; minutes, clock / processor")
    print(f"{'f':>6} {'inverse':>13} {'order':>13} {'prices':>13} {'all':>13} {'narrow':>13}")
    for f in options.sizes:
        times = timed(f, options.width, options.ridge)
        print(f"{f:>6} " + " ".join(f"{clock:6.3f}/{own:6.3f}" for clock, own in times), flush=True)


def timed(f: int, d: int, ridge: float) -> list[tuple[float, float]]:
    """Return minutes of each part, as ``eliminate`` takes them one after the other."""
    down, moments = block(f, d)
    system = System.of(moments, biased=False, ridge=ridge)
    columns = (down.double() * system.scale).mT
    small = (columns / columns.abs().max()).float().contiguous()
    inverse, first = measured(lambda: system.inverse().float())
    order, second = measured(lambda: cheapest_first(inverse, small, least=1.0))
    del inverse, small
    _, third = measured(lambda: refitted_prices(system.matrix, columns.mT, order))
    del columns, system
    kept = order[f // 4 :].sort().values
    _, last = measured(lambda: narrow(down, None, moments, kept, ridge=ridge))
    whole = (first[0] + second[0] + third[0], first[1] + second[1] + third[1])
    return [first, second, third, whole, last]


def compare(f: int, d: int, ridge: float) -> None:
    """Print how far float32 leads from float64."""
    down, moments = block(f, d)
    single, double = (
        eliminate(down, moments, biased=False, ridge=ridge, working=working)
        for working in (torch.float32, torch.float64)
    )
    wide = slice(f // 2, f)
    costs, wanted = single.costs()[wide], double.costs()[wide]
    moved = int((single.order != double.order).sum())
    print(f"f = {f}, d = {d}, ε = {ridge}: {moved} neurons go at another place in float32")
    for share in (0.875, 0.75, 0.5):
        width = int(share * f)
        kept = double.kept(width)
        differ = f - int(torch.isin(single.kept(width), kept).sum()) - (f - width)
        result = narrow(down, None, moments, kept, ridge=ridge).down
        float32 = in_single(down, moments, kept, ridge)
        print(
            f"  {share:.1%} kept: {differ} other neurons, cost "
            f"{float(single.costs()[width] / double.costs()[width]) - 1:+.1e}; "
            f"the same refit in float32 {float((float32 - result).norm() / result.norm()):.1e}"
        )
    apart = float(((costs - wanted) / wanted).abs().max())
    print(f"  largest relative difference of a cost: {apart:.1e}")
    system = System.of(moments, biased=False, ridge=ridge)
    low = refitted_prices(
        system.matrix.float(), (down.double() * system.scale).float(), double.order
    ).double()
    error = ((low.cumsum(0) - double.prices.cumsum(0)) / double.prices.cumsum(0)).abs()
    print(f"  the same prices in float32: {float(error[f // 8 :].max()):.1e} beyond an eighth")


def in_single(down: Tensor, moments: NeuronMoments, kept: Tensor, ridge: float) -> Tensor:
    """Return D' computed in float32, scaled as ``narrow`` does."""
    system = System.of(moments, biased=False, ridge=ridge)
    gone = torch.ones(down.shape[1], dtype=torch.bool)
    gone[kept] = False
    matrix, scale = system.matrix.float(), system.scale.float()
    met = (down[:, gone] * scale[gone]) @ matrix[gone][:, kept]
    root = torch.linalg.cholesky(matrix[kept[:, None], kept])
    return down[:, kept] + torch.cholesky_solve(met.mT, root).mT / scale[kept]


def block(f: int, d: int) -> tuple[Tensor, NeuronMoments]:
    """Return D, float32, and moments of a gated block on made input."""
    draw = torch.Generator().manual_seed(f)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    wide = min(d, f)
    gate, up = normal(f, wide) / wide**0.5, normal(f, wide) / wide**0.5
    copies = torch.randperm(f, generator=draw)[: f // 10]
    dead, twins = copies[: len(copies) // 2], copies[len(copies) // 2 :]
    gate[twins], up[twins] = gate[(twins + 1) % f], up[(twins + 1) % f]
    up[dead] = 0.0
    spread = (torch.arange(wide) + 8.0) ** -0.3
    second, mean, rows = torch.zeros(f, f, dtype=torch.float64), torch.zeros(f).double(), 0
    while rows < 1.5 * f:
        x = normal(2048, wide) * spread * (4 * normal(2048, 1)).exp().clamp(max=30) ** 0.25
        h = torch.nn.functional.silu(4 * x @ gate.T) * (4 * x @ up.T)
        second += h.T @ h
        mean += h.double().sum(0)
        rows += len(h)
    return normal(d, f) / f**0.5, NeuronMoments(second / rows, mean / rows, float(rows))


def measured(work: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """Return what work returns, and its minutes on the clock and of the processor."""
    clock, own = time.perf_counter(), time.process_time()
    result = work()
    return result, ((time.perf_counter() - clock) / 60, (time.process_time() - own) / 60)


if __name__ == "__main__":
    main()
