"""By how much a word error rate or a perplexity rises, on the rows that cuts are tried on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from surgery.calibration.witness import output_of_text
from surgery.engine.measure.bounds import refuse_perplexity
from surgery.engine.measure.input_run import InputRun
from surgery.engine.measure.largest import Told
from surgery.engine.measure.noted import Notes, noted, number
from surgery.evaluation.perplexity import perplexity
from surgery.evaluation.transcribe import room_after, transcribe
from surgery.evaluation.wer import word_errors
from surgery.events import Event, Progress
from surgery.methods import Bound, MaxError, MaxPplIncrease, MaxWerIncrease

CHARACTERS = 1 << 16  # of text that a perplexity is taken on

Figure = Callable[[int | None, Told], tuple[float, int | None]]
"""Takes a bound's figure of the model as it is: given how many tokens a text may take, ``None`` for
the original, it returns the figure and how many a cut model's may take."""
Rise = Callable[[str, Callable[[], AbstractContextManager[None]], Told], float]
"""Takes what tells a cut from others, and what puts it in place; returns the rise."""


def limit_of(bound: Bound) -> float:
    """Return the most that a bound allows: an error, points, or per cent of the perplexity."""
    match bound:
        case MaxError(error):
            return error
        case MaxWerIncrease(points):
            return points
        case MaxPplIncrease(fraction):
            return 100 * fraction


def rise_of(
    bound: MaxWerIncrease | MaxPplIncrease,
    run: InputRun,
    language: str,
    notes: Notes | None,
    progress: Progress,
) -> Rise:
    """Measure the original, and return what measures cuts.

    Args:
        bound: Which figure, and in which unit.
        run: The model, as it is, and its input.
        language: What is spoken, for a multilingual Whisper's decoder.
        notes: Where a resumed run finds figures, if anywhere.
        progress: Called with :class:`surgery.events.Event`.

    Raises:
        UsageError: The calibration data cannot tell.
    """
    run.needed("This bound is measured on data")
    figure = (_error_rate if isinstance(bound, MaxWerIncrease) else _perplexity)(run, language)

    def whole(share: float) -> None:
        progress(Event("Measuring the original", share, 1))

    whole(0.0)
    before, room = noted(notes, "original", lambda: figure(None, whole), _figure)
    whole(1.0)

    def rise(key: str, in_place: Callable[[], AbstractContextManager[None]], told: Told) -> float:
        def cut() -> float:
            with in_place():
                return figure(room, told)[0]

        after = noted(notes, f"budget:bound:{key}", cut, number)
        scale = before if isinstance(bound, MaxPplIncrease) else 1.0
        return 100 * (after - before) / scale

    return rise


def _figure(noted: Any) -> tuple[float, int | None]:
    figure, room = noted
    if not isinstance(room, int | None):
        raise TypeError(f"no number of tokens: {room!r}")
    return number(figure), room


def _error_rate(run: InputRun, language: str) -> Figure:
    said = [each for each in run.dealt.trial.recordings if each.words is not None]
    audio = [each.audio() for each in said]
    words = [each.words or "" for each in said]

    def rate(longest: int | None, told: Told) -> tuple[float, int | None]:
        texts = transcribe(
            run.model,
            run.processor,
            audio,
            language=language,
            max_new_tokens=longest,
            told=told,
        )
        # A damaged model repeats itself up to the limit: bound that.
        room = room_after(run.model, run.processor, texts)
        return word_errors(words, texts, language=language).rate, room

    return rate


def _perplexity(run: InputRun, _: str) -> Figure:
    if (output := output_of_text(run.model)) != "next token":
        refuse_perplexity(f"no language-model head: {output}")
    texts: list[str] = []
    size = 0
    for document in run.dealt.trial.documents:
        texts.append(document.text[: CHARACTERS - size])
        size += len(texts[-1])
        if size >= CHARACTERS:
            break

    def figure(_: int | None, told: Told) -> tuple[float, int | None]:
        return perplexity(run.model, run.processor, texts, told=told).perplexity, None

    return figure
