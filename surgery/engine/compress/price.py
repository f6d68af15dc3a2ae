"""What the narrow model costs on rows that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from surgery.calibration.held_out import HeldOut
from surgery.calibration.witness import (
    Output,
    Scoped,
    error_of,
    output_of_speech,
    output_of_text,
    unit_of,
)
from surgery.engine.compress.fit import Fitted
from surgery.engine.compress.in_place import compressed
from surgery.engine.compress.plan import CompressPlan
from surgery.engine.measure import priced
from surgery.engine.measure.input_run import InputRun
from surgery.events import Progress
from surgery.report.model.calibration import Calibration


def price_of(
    plan: CompressPlan,
    run: InputRun,
    fitted: Fitted,
    cut: Callable[[], AbstractContextManager[None]],
    expected: float | None,
    progress: Progress,
) -> Calibration:
    """Return what real input said, with the price on held-out rows where there are any.

    Args:
        plan: What was asked for.
        run: The model and its input.
        fitted: Its blocks.
        cut: Runs the model with what else was cut.
        expected: What all of that was expected to do to the output.
        progress: Called with :class:`surgery.events.Event`.
    """
    model, language = run.model, plan.options.language

    in_place = partial(compressed, model, plan, fitted.result, cut)
    touched: list[Scoped] = [*plan.gone, *plan.sites]
    held_out, found, output = run.dealt.held_out, None, compared(plan, run)
    if held_out is not None:
        rows = HeldOut(model, touched, held_out, run.processor, language=language)
        found = priced.price(rows, in_place, progress, fitted.kept, "narrow")
        found = priced.in_words(found, rows, in_place, progress, fitted.kept, "narrow")
    return Calibration(
        data=run.on.name,
        samples=run.on.count,
        queries=fitted.weight,
        output=output,
        unit=unit_of(output),
        padding_weight=0.0,
        ridge=plan.options.ridge,
        predicted=None if expected is None else error_of(output, expected),
        in_sample=False,
        held_out=None if found is None else priced.told(found),
    )


def compared(plan: CompressPlan, run: InputRun) -> Output:
    """Return which output shows what becomes of a plan's layers and blocks."""
    if run.needed("A price").kind == "audio":
        return output_of_speech([*plan.gone, *plan.sites])
    return output_of_text(run.model)
