"""First pass: the spectrum and the small transforms of every block in scope, spilled as it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from torch import Tensor

from surgery.architectures.base import AttentionSite
from surgery.architectures.seams import Seam, seams_of
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.validate import check_finite
from surgery.choices.cutting import BY_INPUT, BY_WEIGHTS, CUTTING
from surgery.choices.rules import SeamName
from surgery.engine.cut.plan import Plan, SitePlan
from surgery.engine.measure.noted import Notes
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
from surgery.stored.pack import read_site
from surgery.stored.parallel import map_ahead


class Spill(Notes, Protocol):
    """Where finished work is kept for a resumed run (a transaction, or nothing)."""

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
    minded: Callable[[str], Tensor] | None = None,
) -> Iterator[tuple[SitePlan, SiteDecomposition]]:
    """Yield every block's decomposition, from the spill where an earlier run got that far.

    Args:
        plan: What is to be decomposed, and how.
        spill: Where finished blocks are kept, if anywhere.
        progress: Called with :class:`surgery.events.Event`.
        moments: Returns what each block saw on real input, by its path; asked only where there
            is work left. ``None``: by weights alone.
        minded: Returns by a block's path the metric of its output, if errors are to count as the
            model's output minds them.

    Raises:
        CheckpointError: A tensor holds NaN or Inf; names it.
    """
    done = {each.site.path for each in plan.sites if spill and spill.done(_key(each.site.path))}

    fresh_sites = [each for each in plan.sites if each.site.path not in done]
    seen = moments() if moments is not None and fresh_sites else None

    def decompose(each: SitePlan) -> SiteDecomposition:
        for name in each.site.tensors():
            check_finite(name, plan.source.tensor(name))
        weights, treated = load_block(plan.source, each), each.treated
        pairs = {"qk": "qk" in treated, "vo": "vo" in treated}
        found: SiteDecomposition
        if seen is None:
            found = CUTTING[plan.options.baseline or BY_WEIGHTS].decompose(weights, **pairs)
            return found
        found = CUTTING[BY_INPUT].decompose(
            weights,
            seen[each.site.path],
            **pairs,
            rotary="qk" in treated and not each.mixes("qk"),
            ridge=plan.options.calibrate.ridge if plan.options.calibrate else 0.0,
            metric=None if minded is None else minded(each.site.path),
        )
        return found

    fresh = map_ahead(decompose, fresh_sites)
    for index, each in enumerate(plan.sites):
        path = each.site.path
        progress(Event("Decomposing attention", index, len(plan.sites), path))
        if spill is not None and path in done:
            yield each, _from_tensors(spill.unspill(_key(path)), each.site)
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
    damage: Mapping[SeamName, DamageCurve | None] | None = None,
) -> SiteSpectra:
    """Return what may be cut in one block, what each vector costs, and what its loss does."""
    seams = seams_of(site_plan.site)
    return {
        name: PairSpectrum(
            part.spectrum,
            seams[name].cost,
            part.step,
            seams[name].least,
            None if damage is None else damage.get(name),
        )
        for name, part in decomposition.parts.items()
    }


FIELDS = ("spectrum", "norm", "left", "right", "order")
"""What is kept of a pair: tensors of :class:`PairDecomposition`."""


def _to_tensors(decomposition: SiteDecomposition) -> dict[str, Tensor]:
    return {
        f"{name}.{field}": value.contiguous()
        for name, part in decomposition.parts.items()
        for field in FIELDS
        if (value := getattr(part, field)) is not None
    }


def _from_tensors(tensors: dict[str, Tensor], site: AttentionSite) -> SiteDecomposition:
    def part(seam: Seam) -> PairDecomposition | None:
        # Copies: kernels round by how memory is aligned, and a resumed run writes the same bytes.
        found = {
            field: tensors[name].clone()
            for field in FIELDS
            if (name := f"{seam.name}.{field}") in tensors
        }
        return PairDecomposition(**found, step=seam.step) if found else None

    return SiteDecomposition(**{name: part(seam) for name, seam in seams_of(site).items()})
