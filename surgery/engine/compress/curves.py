"""What taking some of a model would cost: from each kind of part alone, and from all together.

Each price is what :func:`surgery.compress` expects of the same budget, with ``--layout ragged`` and
all seams that are open. Nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from surgery.architectures.base import AttentionSite
from surgery.architectures.feed_forward import FeedForwardSite
from surgery.architectures.seams import seams_of
from surgery.calibration.witness import error_of, unit_of
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction
from surgery.engine.compress.attention import AttentionPart
from surgery.engine.compress.budget import Budget, Choice
from surgery.engine.compress.candidates import candidates, missed
from surgery.engine.compress.cutting import Cutting
from surgery.engine.compress.goal import TooMuchError
from surgery.engine.compress.options import SCOPES, CompressOptions
from surgery.engine.compress.plan import CompressPlan, make_plan
from surgery.engine.cut.calibrate import Calibrate
from surgery.engine.cut.options import Options
from surgery.engine.measure.input_run import InputRun
from surgery.events import Progress
from surgery.report.model.calibration import PartPrices, Price
from surgery.report.text.calibration import SHARES_OF_MODEL
from surgery.stored.stored import read_stored


def price_parts(
    source: TensorSource, asked: str, options: Options, settings: Calibrate, progress: Progress
) -> PartPrices | None:
    """Return what budgets cost, kind by kind: attention, blocks of neurons, layers, then all.

    Args:
        source: The model.
        asked: What the user called it.
        options: Of a cut: its tower, where one is named, and its seams of attention count.
        settings: How it is calibrated, with data.
        progress: Called with :class:`surgery.events.Event`.

    Raises:
        SurgeryError: Its blocks cannot be made narrower; data cannot be read, or does not fit.
    """
    wanted = _options(source, options, settings)
    plan = make_plan(source, wanted, asked)
    attention = AttentionPart(plan, progress) if wanted.attention else None
    run = (
        InputRun(source, wanted.calibrate, wanted.samples, wanted.device, progress)
        if attention is None
        else attention.run
    )
    with (
        TemporaryDirectory() as place,
        Transaction(Path(place) / "parts", {"inspect": asked}, keep=False) as kept,
        run,
    ):
        budget = Cutting(plan, run, attention, kept, progress).priced()
        if budget is None:
            return None
        output = budget.heard.output
        return PartPrices(output, unit_of(output), list(_prices(budget, plan, kept, progress)))


def _options(source: TensorSource, options: Options, settings: Calibrate) -> CompressOptions:
    """Return what asks for all that can share a budget, in scope."""
    pairs = options.pairs
    open_ = {
        name
        for site in read_stored(source).claims.sites
        for name, seam in seams_of(site).items()
        if seam.why_not is None and (pairs is None or name in pairs)
    }
    return CompressOptions(
        remove=SHARES_OF_MODEL[0],
        layout="ragged",
        seams=(*sorted(open_), "ffn", "layers"),
        scope=options.scope if options.scope in SCOPES else "all",
        refit=settings.refits,
        calibrate=settings.data or "",
        samples=settings.samples,
        language=settings.language,
        device=settings.device,
    )


def _prices(
    budget: Budget, plan: CompressPlan, kept: Transaction, progress: Progress
) -> Iterator[Price]:
    sizes, whole = plan.sizes("model"), plan.goal.base
    plans = [
        make_plan(plan.whole.source, replace(plan.options, remove=share), plan.asked)
        for share in SHARES_OF_MODEL
    ]

    output = budget.heard.output  # before copies are made, each of which knows its own trials

    def price(part: str, removed: int, damage: float) -> Price:
        return Price(part, removed / whole, error_of(output, damage))

    def of(choice: Choice) -> tuple[int, float]:
        return sum(step.parameters for step in choice.steps), choice.expected

    alone = {"attention": AttentionSite, "ffn": FeedForwardSite}
    for part, kind in alone.items():
        for one in plans if part == "ffn" or plan.options.attention else ():
            try:
                yield price(part, *of(copy(budget).choose(one, only=kind)))
            except TooMuchError:
                break
    shared = list[Price]()
    for one in plans:
        try:
            best = candidates(copy(budget), one, kept, progress)[0]
        except TooMuchError:
            break
        removed, damage = of(best.choice)
        removed += sum(sizes[layer] for layer, _ in best.layers)
        shared.append(price("all", removed, damage))
    removed = 0
    for layer, tried in missed(budget, plans[-1], kept, progress):
        removed += sizes[layer]
        yield price("layers", removed, tried[layer])
    yield from shared
