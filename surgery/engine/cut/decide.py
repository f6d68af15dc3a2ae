"""What is cut, decided on real input: decompositions, measured damage, ranks, and their price."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from surgery.calibration.cut import OutputChange
from surgery.calibration.sensitivity import Trials
from surgery.calibration.witness import unit_of
from surgery.choices.where import given_by
from surgery.engine.cut.calibration_run import CalibrationRun
from surgery.engine.cut.decompose import Spill, decompose_sites, spectra_of
from surgery.engine.cut.plan import Plan, SitePlan
from surgery.engine.cut.pricing import Pricing
from surgery.engine.cut.ranks import plan_ranks, site_ranks
from surgery.engine.cut.search import search
from surgery.engine.cut.settle import settle
from surgery.engine.cut.trials import make_trials
from surgery.engine.measure.priced import told as told_price
from surgery.events import Progress
from surgery.methods import (
    Bound,
    DamageCurve,
    PairDecomposition,
    Ranks,
    SeamName,
    SiteDecomposition,
    SiteSpectra,
    UpTo,
    share_frequencies,
)
from surgery.report.model.calibration import (
    Calibration,
    SearchStep,
    Sensitivity,
)
from surgery.runtime.heads import SiteRanks


@dataclass(frozen=True)
class Decision:
    """What is to be cut.

    Attributes:
        decompositions: Of every block, by its path.
        ranks: What stays.
        told: What real input told, for the report.
        refitted: What is added to output projections, by block.
    """

    decompositions: Mapping[str, SiteDecomposition]
    ranks: Mapping[str, SiteRanks]
    told: Calibration
    refitted: Mapping[str, OutputChange]


def price(
    plan: Plan,
    run: CalibrationRun,
    spill: Spill | None,
    progress: Progress,
    *,
    minded: Callable[[str], Tensor] | None = None,
    tried: Callable[[Mapping[str, SiteDecomposition]], Trials] | None = None,
) -> tuple[Pricing, Trials]:
    """Decompose every block on what it saw, and cut every pair on trial.

    Args:
        plan: What was asked for.
        run: The calibration.
        spill: Where decomposed blocks are kept for a resumed run.
        progress: Called with :class:`surgery.events.Event`.
        minded: Returns by a block's path the metric of its output, if errors are to count as the
            model's output minds them.
        tried: Returns what cuts of decomposed blocks do; default trials on the running model, where
            they are asked for.

    Returns:
        What any budget costs, and the trials that say so.
    """
    run.spill = spill
    found = dict(decompose_sites(plan, spill, progress, lambda: run.moments, minded))
    if plan.options.layout == "model":
        found = _of_one_model(found)
    decompositions = {each.site.path: result for each, result in found.items()}
    if tried is None:
        trials = make_trials(run, decompositions) if run.settings.tries else {}
    else:
        trials = tried(decompositions)
    spectra: dict[str, SiteSpectra] = {
        each.site.path: spectra_of(each, result, _curves(trials, each.site.path))
        for each, result in found.items()
    }
    return Pricing(plan, run, decompositions, spectra), trials


def decide(
    plan: Plan, run: CalibrationRun, spill: Spill | None, progress: Progress, *, curve: bool
) -> Decision:
    """Find the ranks that the rule leaves, and what they cost.

    Args:
        plan: What was asked for.
        run: The calibration.
        spill: Where decomposed blocks are kept for a resumed run.
        progress: Called with :class:`surgery.events.Event`.
        curve: Try the whole price curve on the running model, not this budget alone.
    """
    pricing, trials = price(plan, run, spill, progress)
    rule, steps, held_out = plan.options.rule, list[SearchStep](), None
    if isinstance(rule, UpTo):
        fraction, steps, held_out = settle(rule, pricing, progress)
        chosen = pricing.ranks(fraction)
    elif isinstance(rule, Bound):
        fraction, steps = search(rule, pricing, progress)
        chosen = pricing.ranks(fraction)
    else:
        chosen = plan_ranks(plan, pricing.spectra)
    measured = None if run.data is None else pricing.tried(chosen)
    unfitted = None
    if measured is not None and run.settings.refits:
        unfitted, measured = measured, _refit(pricing, chosen, measured, spill)
    if held_out is None or pricing.refitted:
        held_out = pricing.held_out(chosen)
    held_out = pricing.in_words(held_out, chosen)
    statistics, settings = run.statistics, run.settings
    told = Calibration(
        data=statistics.data.name,
        samples=statistics.data.count,
        queries=run.queries,
        output=run.output,
        unit=unit_of(run.output),
        # Padding of text never counts.
        padding_weight=statistics.padding_weight if statistics.data.kind == "audio" else 0.0,
        ridge=settings.ridge,
        statistics=run.sha256,
        sensitivities=[
            Sensitivity(path, pair, [at for at, _ in tried], [damage for _, damage in tried])
            for (path, pair), tried in trials.items()
        ],
        prices=pricing.curve(measure=curve and run.data is not None),
        predicted=pricing.predicted(chosen),
        measured=measured,
        unfitted=unfitted,
        bound=next(iter(given_by(rule))) if isinstance(rule, Bound | UpTo) else None,
        # As budgets are counted: of whole vectors, and so a little more than was asked for.
        search=[replace(one, removed=pricing.removed(pricing.ranks(one.removed))) for one in steps],
        in_sample=run.data is None or not run.unseen,
        held_out=None if held_out is None else told_price(held_out),
    )
    found = pricing.decompositions
    return Decision(found, site_ranks(plan, chosen, found), told, pricing.refitted)


def _refit(pricing: Pricing, ranks: Ranks, before: float, spill: Spill | None) -> float:
    """Refit outputs, or leave them where the rows for trials do not gain; return their error."""
    pricing.refit(ranks, spill)
    if not pricing.refitted:  # no block lost value vectors
        return before
    after = pricing.tried(ranks)
    if after <= before:
        return after
    pricing.forget()
    return before


def _of_one_model(
    found: Mapping[SitePlan, SiteDecomposition],
) -> dict[SitePlan, SiteDecomposition]:
    """Make all heads that lose frequencies lose the same ones."""
    shared = dict(found)
    rotary: dict[int, dict[SitePlan, PairDecomposition]] = {}
    for each, result in found.items():
        if result.qk is not None and result.qk.frequencies is not None:
            rotary.setdefault(each.site.head_dim, {})[each] = result.qk
    for blocks in rotary.values():
        for each, part in zip(blocks, share_frequencies([*blocks.values()]), strict=True):
            shared[each] = replace(found[each], qk=part)
    return shared


def _curves(trials: Trials, path: str) -> dict[SeamName, DamageCurve | None]:
    return {
        pair: DamageCurve.measured(tried) for (site, pair), tried in trials.items() if site == path
    }
