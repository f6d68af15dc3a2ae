"""From runs to figures with intervals, and to paired differences with the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from surgery.evaluation.bootstrap import Bootstrap, Estimate, Floats, Resampled
from surgery.evaluation.multiple_choice import ChoiceRun
from surgery.evaluation.questions import Question
from surgery.evaluation.speech import SpeechRun
from surgery.evaluation.text import TextRun
from surgery.evaluation.wer import word_errors_each

BLOCK = 128  # tokens: what a text of few documents is drawn in, longer than losses remember
FEW = 10  # documents


@dataclass
class Figures:
    """The figures of one model on one set of data."""

    values: dict[str, Estimate] = field(default_factory=dict)
    changes: dict[str, Estimate] = field(default_factory=dict)

    def put(self, name: str, found: Resampled, reference: Resampled) -> None:
        """Add a figure, and its difference to the reference unless this is the reference."""
        self.values[name] = found.estimate
        if found is not reference:
            self.changes[name] = found.minus(reference)


def speech_figures(
    runs: Sequence[SpeechRun],
    sound: Sequence[float],
    references: Sequence[str] | None,
    bootstrap: Bootstrap,
    *,
    language: str = "en",
) -> list[Figures]:
    """Return the figures of every run on one set of recordings, the reference's first.

    Args:
        runs: From :func:`surgery.evaluation.speech.compare_speech`.
        sound: Seconds of audio in every batch, from the same.
        references: What was said in every recording, where it is known.
        bootstrap: Draws recordings, and batches for the ratio of times.
        language: Whose normaliser makes texts comparable.
    """
    rates: list[Resampled] = []
    for run in runs if references is not None else ():
        errors = word_errors_each(references or (), run.texts, language=language)
        rates.append(
            bootstrap.ratio([e.errors for e in errors], [e.words for e in errors], then=_percent)
        )
    every = []
    for index, run in enumerate(runs):
        found = Figures()
        if rates:
            found.put("wer", rates[index], rates[0])
        if index:
            same = [float(a == b) for a, b in zip(runs[0].texts, run.texts, strict=True)]
            shares = bootstrap.ratio(same, [1.0] * len(same), then=_percent)
            found.values["same_text"] = shares.estimate
        if run.encoder is not None:
            found.values["encoder_error"] = Estimate(run.encoder.speech)
            found.values["encoder_error_window"] = Estimate(run.encoder.window)
        if run.decoder is not None:
            found.values |= _output(run.decoder.relative, run.decoder.divergence, None)
        for name, times, base in (
            ("time", run.transcribing, runs[0].transcribing),
            ("encoder_time", run.encoding, runs[0].encoding),
        ):
            found.values |= _times(name, times, base if index else None, sound, bootstrap)
        every.append(found)
    return every


def text_figures(
    runs: Sequence[TextRun],
    tokens: Sequence[int],
    documents: Sequence[str],
    bootstrap: Bootstrap,
) -> tuple[list[Figures], str]:
    """Return the figures of every run on one set of documents, and what was drawn.

    Args:
        runs: From :func:`surgery.evaluation.text.compare_text`, the reference's first.
        tokens: Of every batch, from the same.
        documents: What was read.
        bootstrap: Draws documents, or blocks of 128 tokens where documents are fewer than ten.
    """
    drawn, scores = "documents", []
    if runs[0].pooled is None:
        drawn = f"blocks of {BLOCK} tokens" if len(documents) < FEW else drawn
        scores = [_predictions(run, documents, bootstrap) for run in runs]
    every = []
    for index, run in enumerate(runs):
        found = Figures()
        if scores:
            for name in ("perplexity", "bits_per_byte"):
                found.put(name, scores[index][name], scores[0][name])
        if run.drift is not None:
            if scores:
                drift = run.drift
                found.values |= _output(drift.relative, drift.divergence, drift.agreement)
            else:
                found.values["embedding_error"] = Estimate(run.drift.relative)
                found.values["pooled_distance"] = _distance(runs[0], run, bootstrap)
        base = runs[0].seconds if index else None
        found.values |= _times("time", run.seconds, base, tokens, bootstrap)
        every.append(found)
    return every, drawn


def choice_figures(
    runs: Sequence[ChoiceRun],
    tokens: Sequence[int],
    questions: Sequence[Question],
    bootstrap: Bootstrap,
) -> list[Figures]:
    """Return the figures of every run on one set of questions.

    Args:
        runs: From :func:`surgery.evaluation.multiple_choice.compare_choices`, the reference's
            first.
        tokens: Of every batch, from the same.
        questions: What was asked.
        bootstrap: Draws questions.
    """
    ones, every = [1.0] * len(questions), [Figures() for _ in runs]
    for name, normalised in (("accuracy", True), ("accuracy_raw", False)):
        shares = [
            bootstrap.ratio(run.correct(questions, normalised=normalised), ones, then=_percent)
            for run in runs
        ]
        for found, share in zip(every, shares, strict=True):
            found.put(name, share, shares[0])
    for index, (found, run) in enumerate(zip(every, runs, strict=True)):
        base = runs[0].seconds if index else None
        found.values |= _times("time", run.seconds, base, tokens, bootstrap)
    return every


def _predictions(
    run: TextRun, documents: Sequence[str], bootstrap: Bootstrap
) -> dict[str, Resampled]:
    sizes = [len(document.encode()) for document in documents]
    units = [
        (block, size * block.size / losses.size)
        for losses, size in zip(run.losses, sizes, strict=True)
        if losses.size
        for block in (_blocks(losses) if len(documents) < FEW else [losses])
    ]
    nats = [float(block.sum()) for block, _ in units]
    # A document of one token is scored nowhere; its bytes count, as they do in `Perplexity`.
    scale = sum(sizes) / sum(size for _, size in units)
    return {
        "perplexity": bootstrap.ratio(nats, [block.size for block, _ in units], then=_exp),
        "bits_per_byte": bootstrap.ratio(
            [each / math.log(2) for each in nats], [scale * size for _, size in units]
        ),
    }


def _blocks(losses: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    return [losses[start : start + BLOCK] for start in range(0, losses.size, BLOCK)]


def _distance(reference: TextRun, run: TextRun, bootstrap: Bootstrap) -> Estimate:
    """Return the mean of 1 − cosine over documents."""
    ours, theirs = (
        np.empty((0, 0)) if each.pooled is None else each.pooled for each in (reference, run)
    )
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    read = norms > 0  # a document without tokens says nothing
    cosines = (ours * theirs).sum(axis=1)[read] / norms[read]
    distances = np.maximum(0.0, 1.0 - cosines)
    return bootstrap.ratio(distances.tolist(), [1.0] * distances.size).estimate


def _output(
    relative: float, divergence: float | None, agreement: float | None
) -> dict[str, Estimate]:
    found = {"output_error": Estimate(relative)}
    if divergence is not None:
        found["kl_divergence"] = Estimate(divergence)
    if agreement is not None:
        found["same_token"] = Estimate(100 * agreement)
    return found


def _times(
    name: str,
    seconds: Sequence[float],
    base: Sequence[float] | None,
    amounts: Sequence[float],
    bootstrap: Bootstrap,
) -> dict[str, Estimate]:
    """Return milliseconds per unit of data, and the ratio to the reference's, drawn by batches."""
    found = {name: Estimate(1000 * sum(seconds) / sum(amounts))}
    if base is not None:
        found[f"{name}_ratio"] = bootstrap.ratio(seconds, base).estimate
    return found


def _percent(values: Floats) -> Floats:
    return 100 * values


def _exp(values: Floats) -> Floats:
    return np.exp(np.minimum(values, 700.0))  # exp(710) overflows float64
