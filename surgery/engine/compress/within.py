"""Find the largest budget whose price, on the rows for trials, keeps within a bound."""

from __future__ import annotations

from dataclasses import replace

from surgery.calibration.witness import Scoped, Witness, error_of
from surgery.engine.compress.cutting import Cutting
from surgery.engine.compress.goal import TooMuchError
from surgery.engine.compress.options import REMOVE, CompressOptions
from surgery.engine.compress.plan import CompressPlan, in_scope, make_plan
from surgery.engine.measure.largest import Told, largest
from surgery.engine.measure.noted import noted, number
from surgery.engine.measure.rise import limit_of, rise_of
from surgery.errors import UsageError
from surgery.methods import Bound, MaxError
from surgery.report.model.calibration import SearchStep

CLOSE = 0.005  # of what a budget is a share of: a narrower bracket is not worth a try
ALL = 1 - 1e-9


def choose_within(
    bound: Bound, cutting: Cutting, *, heard: Witness | None = None, beaten: float = 0.0
) -> list[SearchStep]:
    """Choose the largest budget within a bound, and return every try.

    Each is fitted and run. Of several budgets that come out as the same choice one is.

    Args:
        bound: What has to hold.
        cutting: The model; of its plan only the layers that leave are taken.
        heard: What the original says, where that is known; what an error is one of.
        beaten: A budget that keeps the bound another way. One that breaks it is then not worth
            another try, and stays chosen.

    Raises:
        UsageError: Nothing that can go keeps within the bound, or the data cannot tell.
    """
    whole, notes, run = cutting.plan, cutting.transaction, cutting.run
    options, limit, cutting.several = whole.options, limit_of(bound), True
    touched: list[Scoped] = [*whole.gone, *in_scope(whole.stored, options)]
    touched += [] if cutting.attention is None else cutting.attention.sites
    if isinstance(bound, MaxError):
        witness = heard or run.witness_of(touched, options.language)

        def error() -> float:
            with cutting.in_place():
                return error_of(witness.output, witness.damage())

        def price(told: Told) -> float:
            told(0.0)
            return noted(notes, f"budget:{cutting.key}", error, number)
    else:
        rise = rise_of(bound, run, options.language, notes, cutting.progress)

        def price(told: Told) -> float:
            return rise(cutting.key, cutting.in_place, told)

    tried: dict[float, tuple[str, float]] = {}

    def tries(share: float, told: Told) -> float:
        cutting.choose(_at(whole, share))
        tried[share] = cutting.key, cutting.removed
        value = price(told)
        if value <= limit:
            kept.append(cutting.key)
        cutting.forget(kept[-1:])
        return value

    kept: list[str] = []
    most = options.remove or _most(whole, cutting)
    first = beaten or options.remove or min(REMOVE, most)
    if beaten and not (value := tries(beaten, lambda _: None)) <= limit:
        return [SearchStep(cutting.removed, value, accepted=False)]
    found, steps = largest(tries, limit, first, most, CLOSE, cutting.progress)
    if not found:
        raise _nothing(options, steps[-1], tried[steps[-1].removed][1])
    # less half a step: of two budgets the smaller may remove more
    able = [step.removed for step in steps if step.accepted]
    cutting.choose(_at(whole, max(able, key=lambda share: tried[share][1])))
    by_choice = {tried[step.removed][0]: step for step in steps}
    return [replace(step, removed=tried[step.removed][1]) for step in by_choice.values()]


def _at(whole: CompressPlan, share: float) -> CompressPlan:
    """Return the plan of a budget."""
    options = replace(whole.options, remove=share, within=None)
    return make_plan(whole.whole.source, options, whole.asked, gone=whole.gone)


def _most(whole: CompressPlan, cutting: Cutting) -> float:
    """Return the largest budget that can be had."""
    try:
        cutting.choose(_at(whole, ALL))
    except TooMuchError as error:
        return error.most * ALL
    return ALL


def _nothing(options: CompressOptions, least: SearchStep, removed: float) -> UsageError:
    return UsageError(
        "Nothing that can go keeps within the bound",
        where=f"--within {options.within}",
        found=f"{least.value:.3g} with {removed:.1%} of the model removed",
        hint="allow more, calibrate on more data like your own, or try other --seams and --layout",
    )
