"""Inspect: what is in a model and what a cut would save, before anything is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.engine.cut.absorb import AbsorbDecompose
from surgery.engine.cut.options import Options
from surgery.engine.cut.plan import make_plan
from surgery.engine.cut.ranks import check_ranks
from surgery.engine.cut.reporting import build_report
from surgery.errors import CheckpointError, UsageError
from surgery.events import Progress, ignore
from surgery.methods import Bound, Remove, UpTo
from surgery.report.accounting import full_ranks
from surgery.report.model.report import Report

FRACTION = 0.25
"""What is priced where nobody says how much, beside the curve."""

STRUCTURE_ONLY = (
    "Structure only: weights were not read, so there are no spectra and nothing is cut."
)

NO_DATA = "What blocks of neurons and layers would cost takes the data (--calibrate)."
NOT_COMPRESSED = "Blocks of neurons and layers have no price here"


def inspect(
    model: str | Path,
    *,
    options: Options | None = None,
    structure: bool = False,
    revision: str | None = None,
    progress: Progress = ignore,
) -> Report:
    """Report a model's attention, its spectra, and what the options would save.

    Args:
        model: Anything :func:`surgery.absorb_decompose` takes.
        options: Where to cut; by default the family's preset, by weights alone: nothing is run
            where no calibration is asked for. With it, the price curve is predicted for every
            layout and tried for the one in the options; and shares of the whole model are priced,
            taken of attention, blocks of neurons, layers, or all of them.
        structure: Read only headers: shapes, parameters, caches and FLOPs. Of a model on a
            hub nothing else is fetched then.
        revision: Hub revision.
        progress: Called with :class:`surgery.events.Event`.

    Raises:
        SurgeryError: What is wrong, where, and what to do.
    """
    if structure and options is not None and options.calibrate is not None:
        raise UsageError(
            "--structure reads headers only, and calibration runs the model",
            found="--structure with --calibrate or --statistics",
            expected="one of them",
        )
    options = _quick(options or Options())
    with resolve(str(model), revision=revision, headers_only=structure) as source:
        plan = make_plan(source, options, str(model))
        if not structure:
            check_ranks(plan)
            report = AbsorbDecompose(plan, progress, curve=True).forecast(progress)
            report = _with_parts(report, source, str(model), options, progress)
        else:
            full = {each.site.path: full_ranks(each.site) for each in plan.sites}
            report = build_report(plan, full, decompositions={}, errors={}, sha256={}, output=None)
            report = replace(report, notes=[STRUCTURE_ONLY, *report.notes])
        return replace(report, title=f"{source.name}: what is in it")


def _with_parts(
    report: Report, source: TensorSource, asked: str, options: Options, progress: Progress
) -> Report:
    """Add what shares of the whole model would cost, where there is input to tell by."""
    settings, told = options.calibrate, report.calibration
    if settings is None or told is None or not settings.tries:
        return report
    if settings.data is None:
        return replace(report, notes=[*report.notes, NO_DATA])
    from surgery.engine.compress.curves import price_parts  # late: it is of what runs a model

    try:
        parts = price_parts(source, asked, options, settings, progress)
    except (UsageError, CheckpointError) as error:
        return replace(report, notes=[*report.notes, f"{NOT_COMPRESSED}: {error.message}."])
    return replace(report, calibration=replace(told, parts=parts))


def _quick(options: Options) -> Options:
    """Run no model that nobody asked to run; where one is run, price every pair and layout."""
    if options.calibrate is not None:
        tries = options.calibrate.trials is not False
        rule = options.rule or Remove(FRACTION)
        return replace(options, rule=rule, calibrate=replace(options.calibrate, trials=tries))
    bounded = isinstance(options.rule, Bound | UpTo)
    return replace(options, by_weights=True) if options.needs_input and not bounded else options
