"""How fast, and how close to the best, is the truncated SVD behind ``surgery split``?

    python benchmarks/truncated_svd.py [--sizes 4096x4096 11008x4096] [--rank 128] [--quick]

Matrices in float32 with spectra that decay as those of trained weights do: ``σ_i ∝ (i + 8)^-a``
over a floor of 1 % of the largest value, a = 0.7 (moderate) and 0.4 (slow), in random bases.
Every method runs on the same matrix, on all cores, one after the other: the full SVD once, the
others three times (median). ``--quick`` leaves the full SVD out and compares times with
``svd_lowrank(niter=4)``; the optimum is known either way, from the spectrum that was put in.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from surgery.linalg import truncated_svd

DECAYS = {"moderate": 0.7, "slow": 0.4}
REPEATS = 3


def rotated(rows: Tensor, generator: torch.Generator, rounds: int = 3) -> Tensor:
    """Multiply from the left by random orthogonal maps: block reflections of full width."""
    n = rows.shape[0]
    for _ in range(rounds):
        v = torch.linalg.qr(torch.randn(n, 256, generator=generator)).Q
        rows = rows - 2 * v @ (v.T @ rows)
        # Random signs and a random order make the reflections' subspaces unlike each other.
        signs = torch.randint(0, 2, (n, 1), generator=generator) * 2.0 - 1
        rows = (rows * signs)[torch.randperm(n, generator=generator)]
        rows = torch.fft.irfft(
            torch.fft.rfft(rows, dim=0)
            * torch.exp(2j * torch.pi * torch.rand(n // 2 + 1, 1, generator=generator)).where(
                _inner(n), torch.ones(1, dtype=torch.complex64)
            ),
            n=n,
            dim=0,
        )
    return rows


def _inner(n: int) -> Tensor:
    """Frequencies whose phase may be turned: the first and, for even n, the last are real."""
    inner = torch.ones(n // 2 + 1, 1, dtype=torch.bool)
    inner[0] = False
    if n % 2 == 0:
        inner[-1] = False
    return inner


def matrix(rows: int, columns: int, decay: float) -> tuple[Tensor, Tensor]:
    """Return a matrix and its singular values."""
    generator = torch.Generator().manual_seed(0)
    least = min(rows, columns)
    s = (torch.arange(least) + 8.0) ** -decay
    s = torch.maximum(s / s[0], torch.tensor(0.01))
    a = torch.zeros(rows, columns)
    a.diagonal().copy_(s)
    a = rotated(a, generator)
    return rotated(a.T.contiguous(), generator).T.contiguous(), s


def defect(columns: Tensor) -> float:
    """Return ``‖XᵀX − I‖_F`` in float64."""
    x = columns.double()
    return float((x.T @ x - torch.eye(x.shape[1], dtype=torch.float64)).norm())


def timed(
    run: Callable[[], tuple[Tensor, Tensor, Tensor, float | None]], repeats: int
) -> tuple[float, tuple[Tensor, Tensor, Tensor, float | None]]:
    """Return the median seconds, and what the last run returned."""
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        found = run()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken), found


def compare(rows: int, columns: int, name: str, rank: int, *, quick: bool) -> None:
    """Print one table."""
    a, s = matrix(rows, columns, DECAYS[name])
    best = float(s[:rank].double().square().sum())
    share = best / float(s.double().square().sum())
    print(f"\n{rows} x {columns}, {name} decay, rank {rank}: the best part holds {share:.1%}")
    print(f"{'method':28} {'seconds':>8} {'faster':>7} {'missing':>9} {'proved':>9} {'defect':>8}")

    def full() -> tuple[Tensor, Tensor, Tensor, float | None]:
        u, values, vt = torch.linalg.svd(a, full_matrices=False)
        return u[:, :rank], values[:rank], vt[:rank].T, None

    def lowrank(niter: int) -> tuple[Tensor, Tensor, Tensor, float | None]:
        return *torch.svd_lowrank(a, q=rank, niter=niter), None

    def ours() -> tuple[Tensor, Tensor, Tensor, float | None]:
        found = truncated_svd(a, rank)
        return found.u, found.s, found.vt.T, found.shortfall

    contestants: dict[str, Callable[[], tuple[Tensor, Tensor, Tensor, float | None]]] = {
        "torch.linalg.svd": full,
        "torch.svd_lowrank(niter=4)": lambda: lowrank(4),
        "torch.svd_lowrank(niter=16)": lambda: lowrank(16),
        "surgery.linalg.truncated_svd": ours,
    }
    if quick:
        del contestants["torch.linalg.svd"]
    slowest = None
    for title, run in contestants.items():
        seconds, (u, values, v, proved) = timed(run, 1 if title == "torch.linalg.svd" else REPEATS)
        slowest = slowest or seconds
        missing = 1 - float(values.double().square().sum()) / best
        told = "" if proved is None else f"{proved:.1e}"
        worst = max(defect(u), defect(v))
        print(
            f"{title:28} {seconds:8.2f} {slowest / seconds:6.1f}x {missing:9.1e} {told:>9} "
            f"{worst:8.0e}",
            flush=True,
        )


def main() -> None:
    """Parse the options and print one table a size and spectrum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["4096x4096", "11008x4096"])
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--decays", nargs="+", choices=DECAYS, default=list(DECAYS))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, float32")
    for size in options.sizes:
        rows, columns = map(int, size.split("x"))
        for name in options.decays:
            compare(rows, columns, name, options.rank, quick=options.quick)


if __name__ == "__main__":
    main()
