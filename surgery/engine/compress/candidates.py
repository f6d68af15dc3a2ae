"""Layers in the same budget: how many of those that are missed least leave, and what blocks lose.

Which leave first, trials on the running model say, by damage per parameter. With each further one
gone, blocks lose what is left of the budget. What trials measure and what blocks are predicted to
cost has one unit, but predictions are of first order, and flatter: so the likeliest choices are
fitted, run and compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from surgery.architectures.dropping import Layer
from surgery.architectures.feed_forward import FeedForwardSite
from surgery.calibration.layers import Counts, Tried, least_missed
from surgery.calibration.witness import Output, error_of, unit_of
from surgery.checkpoint.transaction import Transaction
from surgery.engine.compress.budget import Budget, Choice, layer_of
from surgery.engine.compress.layers import trials_kept
from surgery.engine.compress.plan import CompressPlan, make_plan
from surgery.errors import UsageError
from surgery.events import Progress
from surgery.report.model.budget import BudgetChoice, BudgetReport, BudgetStep

COMPARED = 2
"""Choices that are fitted and run before one is taken."""
HOPELESS = 3.0
"""How many times the least expected cost a choice may have, for further layers to be tried."""
STAGE = "Comparing choices"


@dataclass(frozen=True, eq=False)
class Candidate:
    """Some layers gone, and the rest of the budget taken of blocks.

    Attributes:
        layers: Which left, in order, each with what was tried before it did.
        choice: What is to become of blocks.
        measured: What all of it did to the output, where it was tried.
    """

    layers: list[tuple[Layer, Tried]]
    choice: Choice
    measured: float | None = None


def candidates(
    budget: Budget, plan: CompressPlan, transaction: Transaction, progress: Progress
) -> list[Candidate]:
    """Return what can be chosen, first what is expected to cost least.

    Args:
        budget: What parts cost.
        plan: How much is to go.
        transaction: Keeps trials.
        progress: Called with :class:`surgery.events.Event`.

    Raises:
        UsageError: No choice removes so much.
    """
    found, refused = list[Candidate](), list[UsageError]()

    def consider(layers: list[tuple[Layer, Tried]]) -> bool:
        """Add a choice, and return whether one with more layers may be worth a look."""
        gone = [*plan.gone, *(layer for layer, _ in layers)]
        damage = layers[-1][1][layers[-1][0]] if layers else 0.0
        try:
            short = make_plan(plan.whole.source, plan.options, plan.asked, gone=gone)
            if short.wanted < 0 < len(layers):
                return False
            found.append(Candidate(layers, budget.choose(short, damage)))
        except UsageError as error:
            refused.append(error)
            return True
        least = min(one.choice.expected for one in found)
        return found[-1].choice.expected <= HOPELESS * least

    hopeful = consider([])
    if "layers" in plan.options.seams and hopeful:
        gone = list[tuple[Layer, Tried]]()
        for step in missed(budget, plan, transaction, progress):
            gone = [*gone, step]
            if not consider(gone):
                break
    if not found:
        raise refused[0]
    return sorted(found, key=lambda one: one.choice.expected)


def missed(
    budget: Budget, plan: CompressPlan, transaction: Transaction, progress: Progress
) -> Iterator[tuple[Layer, Tried]]:
    """Yield the layers that are missed least for their parameters, as many as a budget holds.

    Each comes with what was tried before it went. Arguments are those of :func:`candidates`.
    """
    sizes = plan.sizes(plan.options.of)
    tower = None if plan.options.scope == "all" else plan.options.scope
    most: Counts = {tower: int(plan.wanted // min(sizes.values()))}
    kept = trials_kept(transaction)
    yield from least_missed(budget.heard, plan.layers, most, progress, *kept, sizes)


def budget_report(budget: Budget, found: Sequence[Candidate], output: Output) -> BudgetReport:
    """Return what a report says of choices, the one that was taken first."""
    best, before, sizes = found[0], 0.0, budget.plan.sizes("model")
    steps: list[BudgetStep] = []
    for layer, tried in best.layers:
        cost, before = tried[layer] - before, tried[layer]
        steps.append(BudgetStep("layer", layer.scope, layer.layer, sizes[layer], 0.0, cost, True))
    for step in best.choice.steps:
        site = budget.sites[step.name]
        part = "cross-attention" if site.scope == "cross" else "attention"
        part = "ffn" if isinstance(site, FeedForwardSite) else part
        where, share, tried_too = layer_of(site), budget.share(step), step.name in budget.tried
        one = part, where.scope, where.layer, step.parameters, share, step.cost, tried_too
        steps.append(BudgetStep(*one))
    steps.sort(key=lambda one: one.cost / one.parameters)
    choices = [
        BudgetChoice(
            [str(layer) for layer, _ in one.layers],
            error_of(output, one.choice.expected),
            None if one.measured is None else error_of(output, one.measured),
        )
        for one in found
    ]
    return BudgetReport(unit_of(output), steps, choices)
