"""First pass: the spectrum and the small transforms of every block in scope, spilled as it goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.validate import check_finite
from surgery.engine.pack import read_site, vector_cost
from surgery.engine.parallel import map_ahead
from surgery.engine.plan import Plan, SitePlan
from surgery.events import Event, Progress
from surgery.methods import (
    AttentionWeights,
    PairDecomposition,
    PairSpectrum,
    SiteDecomposition,
    SiteSpectra,
    absorb_decompose,
    magnitude,
)
from surgery.methods.rules import Pair


class Spill(Protocol):
    """Where finished work is kept for a resumed run (a transaction, or nothing)."""

    def done(self, key: str) -> bool:
        """Whether ``key`` was spilled before."""

    def spill(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Keep tensors under ``key``."""

    def unspill(self, key: str) -> dict[str, Tensor]:
        """Return the tensors kept under ``key``."""


def load_block(source: TensorSource, plan: SitePlan) -> AttentionWeights:
    """Read one dense block in float64."""
    weights = read_site(source.tensor, plan.site)
    for name in plan.site.tensors():
        source.release(name)
    return weights


def decompose_sites(
    plan: Plan, spill: Spill | None, progress: Progress
) -> Iterator[tuple[SitePlan, SiteDecomposition]]:
    """Yield every block's decomposition, from the spill where an earlier run got that far.

    Raises:
        CheckpointError: A tensor holds NaN or Inf; names it.
    """
    method = magnitude if plan.options.baseline == "magnitude" else absorb_decompose
    done = {each.site.path for each in plan.sites if spill and spill.done(_key(each.site.path))}

    def decompose(each: SitePlan) -> SiteDecomposition:
        for name in each.site.tensors():
            check_finite(name, plan.source.tensor(name))
        return method(load_block(plan.source, each), qk=each.qk, vo=each.vo)

    fresh = map_ahead(decompose, [each for each in plan.sites if each.site.path not in done])
    for index, each in enumerate(plan.sites):
        path = each.site.path
        progress(Event("Decomposing attention", index, len(plan.sites), path))
        if spill is not None and path in done:
            yield each, _from_tensors(spill.unspill(_key(path)))
            continue
        decomposition = next(fresh)
        if spill is not None:
            spill.spill(_key(path), _to_tensors(decomposition))
        yield each, decomposition
    progress(Event("Decomposing attention", len(plan.sites), len(plan.sites)))


def _key(path: str) -> str:
    return f"site:{path}"


def spectra_of(site_plan: SitePlan, decomposition: SiteDecomposition) -> SiteSpectra:
    """Return what may be cut in one block, and what each vector costs."""
    qk_cost, vo_cost = vector_cost(site_plan.site)
    spectra: dict[Pair, PairSpectrum] = {}
    if decomposition.qk is not None:
        spectra["qk"] = PairSpectrum(decomposition.qk.spectrum, qk_cost)
    if decomposition.vo is not None:
        spectra["vo"] = PairSpectrum(decomposition.vo.spectrum, vo_cost)
    return spectra


def _to_tensors(decomposition: SiteDecomposition) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for pair, part in (("qk", decomposition.qk), ("vo", decomposition.vo)):
        if part is not None:
            tensors |= {
                f"{pair}.spectrum": part.spectrum.contiguous(),
                f"{pair}.left": part.left.contiguous(),
                f"{pair}.right": part.right.contiguous(),
                f"{pair}.norm": part.norm.contiguous(),
            }
    return tensors


def _from_tensors(tensors: dict[str, Tensor]) -> SiteDecomposition:
    def part(pair: str) -> PairDecomposition | None:
        if f"{pair}.spectrum" not in tensors:
            return None
        fields = ("spectrum", "left", "right", "norm")
        return PairDecomposition(*(tensors[f"{pair}.{name}"] for name in fields))

    return SiteDecomposition(qk=part("qk"), vo=part("vo"))
