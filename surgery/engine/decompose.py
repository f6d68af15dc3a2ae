"""First pass: the spectrum and the small transforms of every block in scope, spilled as it goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.validate import check_finite
from surgery.engine.pack import read_site, vector_cost
from surgery.engine.plan import Plan, SitePlan
from surgery.events import Event, Progress
from surgery.linalg import probed_product_error
from surgery.methods import (
    AttentionWeights,
    PairDecomposition,
    PairSpectrum,
    SiteDecomposition,
    SiteSpectra,
    absorb_decompose,
    magnitude,
    prepare,
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


@dataclass(frozen=True)
class SiteResult:
    """A block's decomposition, and how exact it is before any cut and cast."""

    decomposition: SiteDecomposition
    exact_error: dict[Pair, Tensor]


def load_block(source: TensorSource, plan: SitePlan) -> AttentionWeights:
    """Read one dense block in float64, refusing NaN and Inf.

    Raises:
        CheckpointError: A tensor holds NaN or Inf; names it.
    """
    for name in plan.site.tensors():
        check_finite(name, source.tensor(name))
    weights = read_site(source.tensor, plan.site)
    for name in plan.site.tensors():
        source.release(name)
    return weights


def decompose_sites(
    plan: Plan, spill: Spill | None, progress: Progress
) -> Iterator[tuple[SitePlan, SiteResult]]:
    """Yield every block's decomposition, from the spill where an earlier run got that far."""
    method = magnitude if plan.options.baseline == "magnitude" else absorb_decompose
    for index, site_plan in enumerate(plan.sites):
        path = site_plan.site.path
        progress(Event("Decomposing attention", index, len(plan.sites), path))
        key = f"site:{path}"
        if spill is not None and spill.done(key):
            yield site_plan, _from_tensors(spill.unspill(key))
            continue
        weights = load_block(plan.source, site_plan)
        decomposition = method(weights, qk=site_plan.qk, vo=site_plan.vo)
        result = SiteResult(decomposition, _exactness(weights, site_plan, decomposition))
        if spill is not None:
            spill.spill(key, _to_tensors(result))
        yield site_plan, result
    progress(Event("Decomposing attention", len(plan.sites), len(plan.sites)))


def spectra_of(site_plan: SitePlan, decomposition: SiteDecomposition) -> SiteSpectra:
    """Return what may be cut in one block, and what each vector costs."""
    qk_cost, vo_cost = vector_cost(site_plan.site)
    spectra: dict[Pair, PairSpectrum] = {}
    if decomposition.qk is not None:
        spectra["qk"] = PairSpectrum(decomposition.qk.spectrum, qk_cost)
    if decomposition.vo is not None:
        spectra["vo"] = PairSpectrum(decomposition.vo.spectrum, vo_cost)
    return spectra


def pair_errors(
    before: AttentionWeights, after: AttentionWeights, *, qk: bool, vo: bool
) -> dict[Pair, Tensor]:
    """Return the relative error of each head's products; both blocks prepared alike."""
    errors: dict[Pair, Tensor] = {}
    if qk:
        errors["qk"] = probed_product_error(*before.qk_factors(), *after.qk_factors())
    if vo:
        errors["vo"] = probed_product_error(*before.vo_factors(), *after.vo_factors())
    return errors


def _exactness(
    weights: AttentionWeights, plan: SitePlan, decomposition: SiteDecomposition
) -> dict[Pair, Tensor]:
    ready = prepare(weights, qk=plan.qk, vo=plan.vo)
    return pair_errors(ready, decomposition.apply(ready), qk=plan.qk, vo=plan.vo)


def _to_tensors(result: SiteResult) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for pair, part in (("qk", result.decomposition.qk), ("vo", result.decomposition.vo)):
        if part is not None:
            tensors |= {
                f"{pair}.spectrum": part.spectrum,
                f"{pair}.left": part.left,
                f"{pair}.right": part.right,
            }
    tensors |= {f"{pair}.exact_error": error for pair, error in result.exact_error.items()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _from_tensors(tensors: dict[str, Tensor]) -> SiteResult:
    def part(pair: str) -> PairDecomposition | None:
        if f"{pair}.spectrum" not in tensors:
            return None
        return PairDecomposition(
            tensors[f"{pair}.spectrum"], tensors[f"{pair}.left"], tensors[f"{pair}.right"]
        )

    errors: dict[Pair, Tensor] = {}
    for name, tensor in tensors.items():
        pair, _, what = name.partition(".")
        if what == "exact_error":
            errors["qk" if pair == "qk" else "vo"] = tensor
    return SiteResult(SiteDecomposition(qk=part("qk"), vo=part("vo")), errors)
