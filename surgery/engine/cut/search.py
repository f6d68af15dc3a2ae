"""Find the largest budget that keeps within a bound on calibration data."""

from __future__ import annotations

from collections.abc import Callable
from math import log1p
from typing import Any

from surgery.calibration.data import CalibrationData
from surgery.engine.cut.bounds import refuse_perplexity
from surgery.engine.cut.pricing import Pricing
from surgery.engine.measure.noted import noted, number
from surgery.evaluation.perplexity import perplexity
from surgery.evaluation.transcribe import room_after, transcribe
from surgery.evaluation.wer import word_errors
from surgery.events import Event, Progress
from surgery.methods import Bound, MaxError, MaxPplIncrease, MaxWerIncrease
from surgery.report.model.calibration import SearchStep

TRIES = 8
CLOSE = 0.005  # of the attention in scope: a narrower bracket is not worth a try
CHARACTERS = 1 << 16  # of text that a perplexity is taken on
STAGE = "Searching the budget"

Told = Callable[[float], None]
Figure = Callable[[int | None, Told], tuple[float, int | None]]
"""Takes a bound's figure of the model as it is: given how many tokens a text may take, ``None`` for
the original, it returns the figure and how many a cut model's may take."""


def search(bound: Bound, pricing: Pricing, progress: Progress) -> tuple[float, list[SearchStep]]:
    """Return the largest budget found within the bound, 0 if none is, and every try.

    The damage of a budget rises with it, but for noise: the bracket between the largest budget
    that kept the bound and the smallest that broke it is halved until it is narrow.

    Args:
        bound: What has to hold.
        pricing: Prices of the model's cuts.
        progress: Receives one event a try.

    Raises:
        UsageError: The calibration data cannot tell: it has no transcripts, or is of another
            kind.
    """
    steps: list[SearchStep] = []

    def told(share: float) -> None:
        progress(Event(STAGE, len(steps) + share, TRIES, f"{at:.1%} removed"))

    price, limit = _price(bound, pricing, progress, told)
    low, high = 0.0, pricing.most
    at = _guess(bound, pricing)
    while len(steps) < TRIES and high - low > CLOSE:
        told(0.0)
        value = price(at)
        steps.append(SearchStep(at, value, value <= limit))
        low, high = (at, high) if value <= limit else (low, at)
        at = (low + high) / 2
    progress(Event(STAGE, TRIES, TRIES))
    return low, steps


def _price(
    bound: Bound, pricing: Pricing, progress: Progress, told: Told
) -> tuple[Callable[[float], float], float]:
    """Return what a budget costs in the bound's own unit, and the bound."""
    run = pricing.run
    if isinstance(bound, MaxError):
        if run.data is None:  # saved statistics alone: nothing to run, trust the prediction
            return lambda fraction: pricing.expected(pricing.ranks(fraction)), bound.error
        return lambda fraction: pricing.measured(pricing.ranks(fraction)), bound.error
    run.needed("This bound is measured on data")
    data = run.dealt.trial
    figure = (_error_rate if isinstance(bound, MaxWerIncrease) else _perplexity)(pricing, data)

    def whole(share: float) -> None:
        progress(Event("Measuring the original", share, 1))

    whole(0.0)
    before, room = noted(run.spill, "original", lambda: figure(None, whole), _figure)
    whole(1.0)

    def increase(fraction: float) -> float:
        ranks = pricing.ranks(fraction)

        def cut() -> float:
            with pricing.in_place(ranks):
                return figure(room, told)[0]

        after = noted(run.spill, f"budget:bound:{pricing.key(ranks)}", cut, number)
        scale = before if isinstance(bound, MaxPplIncrease) else 1.0
        return 100 * (after - before) / scale

    if isinstance(bound, MaxPplIncrease):
        return increase, 100 * bound.fraction
    return increase, bound.points


def _figure(noted: Any) -> tuple[float, int | None]:
    figure, room = noted
    if not isinstance(room, int | None):
        raise TypeError(f"no number of tokens: {room!r}")
    return number(figure), room


def _error_rate(pricing: Pricing, data: CalibrationData) -> Figure:
    run = pricing.run
    said = [each for each in data.recordings if each.words is not None]
    audio = [each.audio() for each in said]
    words = [each.words or "" for each in said]

    def rate(longest: int | None, told: Told) -> tuple[float, int | None]:
        texts = transcribe(
            run.model,
            run.processor,
            audio,
            language=run.settings.language,
            max_new_tokens=longest,
            told=told,
        )
        # A damaged model repeats itself up to the limit: bound that.
        room = room_after(run.model, run.processor, texts)
        return word_errors(words, texts, language=run.settings.language).rate, room

    return rate


def _perplexity(pricing: Pricing, data: CalibrationData) -> Figure:
    run = pricing.run
    if run.witness.output != "next token":
        refuse_perplexity(f"no language-model head: {run.witness.output}")
    texts: list[str] = []
    size = 0
    for document in data.documents:
        texts.append(document.text[: CHARACTERS - size])
        size += len(texts[-1])
        if size >= CHARACTERS:
            break

    def figure(_: int | None, told: Told) -> tuple[float, int | None]:
        return perplexity(run.model, run.processor, texts, told=told).perplexity, None

    return figure


def _guess(bound: Bound, pricing: Pricing) -> float:
    """Return where to begin: the largest budget that is predicted to keep the bound."""
    low, high = 0.0, pricing.most
    match bound:
        case MaxError(error):
            limit = error
        case MaxPplIncrease(fraction):  # the divergence is close to what log-perplexity rises by
            limit = log1p(fraction)
        case _:  # what an encoder's error does to words is for the recordings to tell
            return high / 2
    if not pricing.run.settings.tries:  # nothing is predicted
        return high / 2
    while high - low > CLOSE / 4:
        at = (low + high) / 2
        if pricing.expected(pricing.ranks(at)) <= limit:
            low = at
        else:
            high = at
    return max(low, CLOSE)
