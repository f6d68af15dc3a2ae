"""Which layers leave, where the command says how many: told by real input, and kept as found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from surgery.architectures.dropping import Layer
from surgery.calibration.layers import Tried, influences, least_missed, open_to
from surgery.calibration.towers import Hearing, towers_of
from surgery.calibration.witness import Output, error_of, unit_of
from surgery.checkpoint.transaction import Transaction
from surgery.choices.common import PADDING_WEIGHT
from surgery.engine.compress.plan import CompressPlan
from surgery.engine.measure.input_run import InputRun
from surgery.events import Progress
from surgery.report.model.layers import LayersReport, LayerStep, LayerTower

POSITIONS = 1 << 13
"""Positions that influences are taken on at most: they are means of bounded numbers."""


def choose_layers(
    plan: CompressPlan, run: InputRun, transaction: Transaction, progress: Progress
) -> tuple[tuple[Layer, ...], LayersReport]:
    """Return which layers leave, and how that was found.

    Args:
        plan: What is asked for.
        run: The model and its input.
        transaction: Keeps what was found.
        progress: Called with :class:`surgery.events.Event`.
    """
    by_trials = plan.options.layer_order != "influence"
    find = _by_trials if by_trials else _by_influence
    found, output = find(plan, run, transaction, progress)
    gone = tuple(sorted(layer for layer, _ in found))
    return gone, layers_report(plan, gone, plan.options.layer_order, found, output)


def layers_report(
    plan: CompressPlan,
    gone: Sequence[Layer],
    order: str = "given",
    found: Sequence[tuple[Layer, Tried]] = (),
    output: Output | None = None,
) -> LayersReport:
    """Return what a report says of layers that leave.

    Args:
        plan: What was asked for.
        gone: The layers.
        order: How they were chosen.
        found: What was tried before each left, in order.
        output: What trials looked at; ``None`` for influences.
    """
    layers = plan.layers

    def told(value: float) -> float:
        return value if output is None else error_of(output, value)

    steps = [
        LayerStep(str(layer), told(tried[layer]), {str(one): told(x) for one, x in tried.items()})
        for layer, tried in found
    ]
    towers = [
        LayerTower(
            scope,
            sum(one.scope == scope for one in layers),
            [one.layer for one in gone if one.scope == scope],
        )
        for scope in dict.fromkeys(one.scope for one in layers)
    ]
    return LayersReport(towers, order, steps, "" if output is None else unit_of(output))


def _by_trials(
    plan: CompressPlan, run: InputRun, transaction: Transaction, progress: Progress
) -> tuple[list[tuple[Layer, Tried]], Output | None]:
    may = open_to(plan.layers, plan.to_choose, [])
    looks = run.witness_of(may, plan.options.language)
    kept = trials_kept(transaction)
    found = list(least_missed(looks, plan.layers, plan.to_choose, progress, *kept))
    return found, looks.output


def trials_kept(
    transaction: Transaction,
) -> tuple[Callable[[str], float | None], Callable[[str, float], None]]:
    """Return what finds the damage of a trial that was made before, and what keeps one."""

    def known(trial: str) -> float | None:
        key = f"without:{trial}"
        return float(transaction.payload(key)) if transaction.done(key) else None

    return known, lambda trial, damage: transaction.record(f"without:{trial}", damage)


def _by_influence(
    plan: CompressPlan, run: InputRun, transaction: Transaction, progress: Progress
) -> tuple[list[tuple[Layer, Tried]], Output | None]:
    may = open_to(plan.layers, plan.to_choose, [])
    if transaction.done("influences"):
        told: Mapping[str, float] = transaction.payload("influences")
        every = {one: told[str(one)] for one in plan.layers if str(one) in told}
    else:
        towers = towers_of(
            run.model,
            run.dealt.fit,
            run.processor,
            Hearing(PADDING_WEIGHT, language=plan.options.language),
            decoder=any(one.scope == "decoder" for one in may),
            remembered=POSITIONS * plan.blocks[0].width,
        )
        scopes = list(dict.fromkeys(one.scope for one in plan.layers))
        every = influences(towers, scopes[: len(towers)], progress)
        transaction.record("influences", {str(one): value for one, value in every.items()})
    found: list[tuple[Layer, Tried]] = []
    for _ in range(sum(plan.to_choose.values())):
        able = open_to(plan.layers, plan.to_choose, [layer for layer, _ in found])
        tried = {one: every[one] for one in able}
        found.append((min(tried, key=lambda one, tried=tried: (tried[one], one)), tried))  # type: ignore[misc]
    return found, None
