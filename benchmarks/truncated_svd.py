"""How fast and how close to optimal are the leading singular triplets of LLM-sized matrices?

    python benchmarks/truncated_svd.py [--sizes 4096x4096 11008x4096] [--rank 128] [--quick]

Builds float32 matrices ``U diag(σ) Vᵀ`` with random orthonormal U, V and known σ, and runs on each,
one after the other with the same threads: ``torch.linalg.svd``, ``torch.svd_lowrank`` with 4 and 16
iterations (PEFT's PiSSA takes 4 for ``pissa_niter_4``, 16 for ``pissa_niter_16``) and
``surgery.linalg.truncated_svd``. The full SVD runs once, the others ``--repeats`` times (median).
"captured" is ``(‖A‖_F² - ‖A - U S Vᵀ‖_F²) / Σ_{i≤r} σ_i²``, measured alike for all.

Spectra, i = 0, 1, …:

- moderate: ``σ_i ∝ (i + 8)^-0.6``, where 128 of 4096 values hold 61 % of the energy: like the
  query and key maps of a trained transformer;
- slow: ``σ_i ∝ (i + 16)^-0.4``, 27 %: like most other maps;
- with noise: the moderate one plus iid Gaussian noise of a quarter of its Frobenius norm.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from surgery.linalg import truncated_svd

SPECTRA = {"moderate": (8, 0.6), "slow": (16, 0.4), "with noise": (8, 0.6)}
NOISE = 0.25


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return (rows, columns) random orthonormal columns."""
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator)).Q


def energy_left(matrix: Tensor, u: Tensor, s: Tensor, vt: Tensor) -> float:
    """Return ``‖A - U S Vᵀ‖_F²``."""
    total = 0.0
    for rows, left in zip(matrix.split(512), (u * s).split(512), strict=True):
        total += float((rows - left @ vt).double().square().sum())
    return total


def defect(columns: Tensor) -> float:
    """Return ``‖UᵀU - I‖_F``."""
    gram = columns.double().mT @ columns.double()
    return float(torch.linalg.matrix_norm(gram - torch.eye(len(gram), dtype=gram.dtype)))


def measure(
    matrix: Tensor, optimum: float | None, rank: int, repeats: int
) -> list[tuple[str, ...]]:
    """Return the table's rows for one matrix; the full SVD gives an unknown optimum."""
    proved = ""

    def full() -> tuple[Tensor, Tensor, Tensor]:
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], s[:rank], vt[:rank]

    def lowrank(iterations: int) -> tuple[Tensor, Tensor, Tensor]:
        u, s, v = torch.svd_lowrank(matrix, q=rank, niter=iterations)
        return u, s, v.mT

    def ours() -> tuple[Tensor, Tensor, Tensor]:
        nonlocal proved
        found = truncated_svd(matrix, rank)
        proved = f"{found.shortfall:.1e}"
        return found.u, found.s, found.vt

    ways: dict[str, tuple[int, Callable[[], tuple[Tensor, Tensor, Tensor]]]] = {
        "torch.linalg.svd": (1, full),
        "torch.svd_lowrank(niter=4)": (repeats, lambda: lowrank(4)),
        "torch.svd_lowrank(niter=16)": (repeats, lambda: lowrank(16)),
        "truncated_svd": (repeats, ours),
    }
    total = float(torch.linalg.vector_norm(matrix, dim=1).double().square().sum())
    reference, rows = 0.0, []
    for name, (runs, way) in ways.items():
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            u, s, vt = way()
            seconds.append(time.perf_counter() - start)
        taken = statistics.median(seconds)
        captured = total - energy_left(matrix, u, s, vt)
        reference, optimum = reference or taken, optimum or captured
        rows.append(
            (
                name,
                f"{taken:.3f}",
                f"{reference / taken:.1f}",
                f"{captured / optimum:.6f}",
                proved if name == "truncated_svd" else "",
                f"{defect(u):.1e}",
                f"{defect(vt.mT):.1e}",
            )
        )
    return rows


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["4096x4096", "11008x4096"])
    parser.add_argument("--spectra", nargs="+", choices=SPECTRA, default=list(SPECTRA))
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="1024x1024 at rank 32, once")
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.rank, options.repeats = ["1024x1024"], 32, 1
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, rank {options.rank}")
    head = ("method", "seconds", "× svd", "captured", "proved ≤", "U defect", "V defect")
    for size in options.sizes:
        n, d = (int(side) for side in size.split("x"))
        generator = torch.Generator().manual_seed(0)
        u = orthonormal(n, min(n, d), generator)
        v = orthonormal(d, min(n, d), generator)
        for name in options.spectra:
            shift, power = SPECTRA[name]
            values = (torch.arange(min(n, d), dtype=torch.float64) + shift) ** -power
            matrix = (u * values.float()) @ v.mT
            optimum: float | None = float(values[: options.rank].square().sum())
            if name == "with noise":
                noise = torch.randn(n, d, generator=generator)
                matrix += noise * (NOISE * float(values.norm()) / float(noise.norm()))
                optimum = None
            table = [head, *measure(matrix, optimum, options.rank, options.repeats)]
            widths = [max(len(row[i]) for row in table) for i in range(len(head))]
            print(f"\n{size}, {name}")
            for row in table:
                cells = [row[0].ljust(widths[0])]
                cells += [
                    cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
                ]
                print("  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
