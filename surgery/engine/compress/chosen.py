"""Of the ways that a plan tried the one to run, and what is said of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import inf, isnan
from typing import Any

from surgery.checkpoint.writer import TensorSpec, file_bytes
from surgery.choices.option import command_line, flag
from surgery.choices.targets import bytes_in
from surgery.engine.compress.cutting import specs_of
from surgery.engine.compress.goal import parameters_of
from surgery.engine.compress.options import CompressOptions
from surgery.engine.compress.plan import CompressPlan
from surgery.errors import UsageError
from surgery.report.model.planned import Alternative, ModelPlan, Tried
from surgery.report.quantised import int8_bytes, q8_0_bytes

EIGHT = (
    "int8 is a byte a number and a scale a row of every matrix (CTranslate2), q8_0 34 bytes for 32 "
    "numbers (llama.cpp); surgery export writes both, and nothing was run for these figures."
)
GOALS = ("remove", "target_parameters", "target_size", "within")


def model_plan(
    whole: CompressPlan,
    options: CompressOptions,
    ways: Sequence[CompressOptions],
    tried: Sequence[Tried],
) -> ModelPlan:
    """Choose of what was tried, and say what was found.

    Args:
        whole: The model.
        options: What is asked for.
        ways: What was tried.
        tried: What each is worth.

    Raises:
        UsageError: No way does what is asked.
    """
    able = [at for at, one in enumerate(tried) if not (one.refused or one.rejected)]
    if not able:
        why = (one.refused or one.rejected for one in tried)
        raise UsageError(
            "Nothing that was tried does this",
            found="; ".join(f"{name_of(way)}: {told}" for way, told in zip(ways, why, strict=True)),
            hint="ask for less",
        )
    best = min(able, key=lambda at: _rank(tried[at], options))
    stored = whole.whole
    given = ((name, getattr(options, name)) for name in GOALS)
    written = specs_of(replace(whole, sites=(), widths={}), None).values()
    now = tried[best].eight_bits
    others = [Alternative(name, n, now[name]) for name, n in in_eight_bits(written).items()]
    return ModelPlan(
        model=whole.source.name,
        asked=" ".join(f"{flag(name)} {told}" for name, told in given if told is not None),
        command=_command(whole, ways[best], tried[best]),
        parameters=parameters_of(stored),
        bytes=sum(map(file_bytes, written)),
        tried=[
            replace(one, rejected=_why(one, tried[best], options)) if at != best else one
            for at, one in enumerate(tried)
        ],
        alternatives=others,
        notes=[EIGHT, *_enough(others, options)],
    )


def _enough(others: Sequence[Alternative], options: CompressOptions) -> list[str]:
    """Say where fewer bits alone are enough."""
    size = options.target_size
    met = [one.name for one in others if size is not None and one.original <= bytes_in(size)]
    names = " or ".join(met)
    return [f"With {names} alone --target-size is met: nothing has to go."] if met else []


def _rank(one: Tried, options: CompressOptions) -> tuple[float, float]:
    """Return what the least of is best: within a bound less is left, else what it costs."""
    measured = inf if one.told is None or isnan(one.told.measured or 0) else one.told.measured
    return (-(one.removed or 0.0) if options.bound is not None else 0.0, measured or 0.0)


def _why(one: Tried, best: Tried, options: CompressOptions) -> str:
    """Say why a candidate is not what is to be run."""
    if one.refused or one.rejected:
        return one.rejected
    if options.bound is None or one.removed == best.removed:
        return "costs more"
    return "less goes within the bound"


def _command(whole: CompressPlan, way: CompressOptions, found: Tried) -> str:
    """Return what makes a candidate; of a bound what keeps it, without a search."""
    if way.within is not None:
        way = replace(way, within=None, remove=None, target_parameters=found.parameters)
    words = way.words()
    if whole.source.revision is not None:
        words += ["--revision", whole.source.revision]
    return command_line(way.command, whole.asked, words, None)


def in_eight_bits(shards: Iterable[Iterable[TensorSpec]]) -> dict[str, int]:
    """Return what all tensors take with numbers in eight bits, by kind."""
    infos = [(one.shape, one.dtype.itemsize) for some in shards for one in some]
    return {"int8": int8_bytes(infos), "q8_0": q8_0_bytes(infos)}


def set_apart(way: CompressOptions) -> dict[str, Any]:
    """Return what tells a way from others."""
    return {"layout": way.layout, "scope": way.scope, "seams": list(way.seams)}  # as JSON sorts


def name_of(way: CompressOptions) -> str:
    """Name a way."""
    more = [] if way.scope == "all" else [way.scope]
    return " ".join([way.layout, ",".join(way.seams), *more])
