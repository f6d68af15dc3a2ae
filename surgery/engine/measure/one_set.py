"""One set of data, whatever it holds: opened, put to every model, and counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.errors import UsageError
from surgery.evaluation.bootstrap import Bootstrap
from surgery.evaluation.data import Speech, Texts, open_speech, open_texts
from surgery.evaluation.figures import Figures, choice_figures, speech_figures, text_figures
from surgery.evaluation.multiple_choice import compare_choices
from surgery.evaluation.perplexity import Division
from surgery.evaluation.questions import Questions, holds_questions, read_questions
from surgery.evaluation.results import Kind
from surgery.evaluation.speech import compare_speech
from surgery.evaluation.text import compare_text

DataOf = Speech | Texts | Questions


@dataclass(frozen=True)
class Found:
    """What models made of one set.

    Attributes:
        figures: One a model.
        layers: Drift by layer and tower, one a model.
        amount: Seconds of audio, or tokens.
        drawn: What the intervals draw.
    """

    figures: list[Figures]
    layers: list[dict[str, list[float]]]
    amount: float
    drawn: str


def open_set(place: str | Path, *, speech: bool, limit: int | None, division: Division) -> DataOf:
    """Open recordings, or questions, or documents."""
    if speech:
        return open_speech(place, limit=limit)
    if holds_questions(Path(place)):
        return read_questions(Path(place), limit=limit)
    return open_texts(place, limit=limit, division=division)


def measure_set(
    models: Sequence[Any],
    words: Any,
    data: DataOf,
    bootstrap: Bootstrap,
    *,
    kind: Kind,
    language: str,
    batch: int,
    told: Callable[[float], None],
) -> Found:
    """Put one set to every model.

    Args:
        models: Loaded, the reference first.
        words: The tokenizer or processor of all of them.
        data: The set.
        bootstrap: Draws the intervals.
        kind: What the models are for.
        language: What is spoken.
        batch: Windows at once.
        told: Called with how much of the set is done.

    Raises:
        UsageError: Questions are put to models that predict nothing.
    """
    if isinstance(data, Speech):
        runs, sound = compare_speech(
            models,
            words,
            data.recordings,
            language=language,
            batch=batch,
            warm_up=True,
            told=told,
        )
        figures = speech_figures(runs, sound, data.references(), bootstrap, language=language)
        return Found(figures, [run.layers for run in runs], sum(sound), "recordings")
    if isinstance(data, Questions):
        if kind != "text":
            raise UsageError(
                "Only a language model tells how likely a choice is",
                where=data.name,
                found="models that predict nothing",
                hint="give such models text, for the drift of their embeddings",
            )
        chosen, tokens = compare_choices(models, words, data.questions, warm_up=True, told=told)
        figures = choice_figures(chosen, tokens, data.questions, bootstrap)
        return Found(figures, [{} for _ in chosen], float(sum(tokens)), "questions")
    read, tokens = compare_text(
        models,
        words,
        data.documents,
        causal=kind == "text",
        batch=batch,
        warm_up=True,
        told=told,
    )
    figures, drawn = text_figures(read, tokens, data.documents, bootstrap)
    layers = [{"layers": run.layers} if run.layers else {} for run in read]
    return Found(figures, layers, float(sum(tokens)), drawn)
