"""First pass: the spectrum and the small transforms of every block in scope, spilled as it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from torch import Tensor

from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.validate import check_finite
from surgery.choices.cutting import BY_INPUT, BY_WEIGHTS, CUTTING
from surgery.choices.rules import Pair
from surgery.engine.cut.plan import Plan, SitePlan
from surgery.events import Event, Progress
from surgery.methods import (
    AttentionWeights,
    DamageCurve,
    PairDecomposition,
    PairSpectrum,
    SiteDecomposition,
    SiteSpectra,
)
from surgery.methods.activation_aware import SecondMoments
from surgery.stored.pack import read_site, vector_cost
from surgery.stored.parallel import map_ahead


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
    plan: Plan,
    spill: Spill | None,
    progress: Progress,
    moments: Callable[[], Mapping[str, SecondMoments]] | None = None,
) -> Iterator[tuple[SitePlan, SiteDecomposition]]:
    """Yield every block's decomposition, from the spill where an earlier run got that far.

    Args:
        plan: What is to be decomposed, and how.
        spill: Where finished blocks are kept, if anywhere.
        progress: Called with :class:`surgery.events.Event`.
        moments: Returns what each block saw on real input, by its path; asked only where there
            is work left. ``None``: by weights alone.

    Raises:
        CheckpointError: A tensor holds NaN or Inf; names it.
    """
    done = {each.site.path for each in plan.sites if spill and spill.done(_key(each.site.path))}

    fresh_sites = [each for each in plan.sites if each.site.path not in done]
    seen = moments() if moments is not None and fresh_sites else None

    def decompose(each: SitePlan) -> SiteDecomposition:
        for name in each.site.tensors():
            check_finite(name, plan.source.tensor(name))
        weights = load_block(plan.source, each)
        found: SiteDecomposition
        if seen is None:
            method = CUTTING[plan.options.baseline or BY_WEIGHTS]
            found = method.decompose(weights, qk=each.qk, vo=each.vo)
            return found
        found = CUTTING[BY_INPUT].decompose(
            weights,
            seen[each.site.path],
            qk=each.qk,
            vo=each.vo,
            rotary=each.rotary,
            ridge=plan.options.calibrate.ridge if plan.options.calibrate else 0.0,
        )
        return found

    fresh = map_ahead(decompose, fresh_sites)
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


def spectra_of(
    site_plan: SitePlan,
    decomposition: SiteDecomposition,
    damage: Mapping[Pair, DamageCurve | None] | None = None,
) -> SiteSpectra:
    """Return what may be cut in one block, what each vector costs, and what its loss does."""
    qk_cost, vo_cost = vector_cost(site_plan.site)
    spectra: dict[Pair, PairSpectrum] = {}
    parts: tuple[tuple[Pair, PairDecomposition | None, int], ...] = (
        ("qk", decomposition.qk, qk_cost),
        ("vo", decomposition.vo, vo_cost),
    )
    for pair, part, cost in parts:
        if part is not None:
            curve = damage.get(pair) if damage is not None else None
            spectra[pair] = PairSpectrum(part.spectrum, cost, part.step, curve)
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
            if part.frequencies is not None:
                tensors[f"{pair}.frequencies"] = part.frequencies.contiguous()
    return tensors


def _from_tensors(tensors: dict[str, Tensor]) -> SiteDecomposition:
    def part(pair: str) -> PairDecomposition | None:
        if f"{pair}.spectrum" not in tensors:
            return None
        spectrum, left, right, norm = (
            tensors[f"{pair}.{name}"] for name in ("spectrum", "left", "right", "norm")
        )
        frequencies = tensors.get(f"{pair}.frequencies")
        return PairDecomposition(spectrum, left, right, norm, frequencies)

    return SiteDecomposition(qk=part("qk"), vo=part("vo"))
