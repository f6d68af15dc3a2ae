"""Two models of different vocabularies on the same input, each with its own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from surgery.choices.places import data_name
from surgery.evaluation.audio import SpeechFolder
from surgery.evaluation.measure import Told
from surgery.evaluation.perplexity import Perplexity, read_documents
from surgery.evaluation.text import TextRun, compare_text
from surgery.evaluation.transcribe import transcribe
from surgery.evaluation.wer import word_errors
from surgery.report.model.report import Measurement


def measure_own_speech(
    models: Sequence[Any],
    processors: Sequence[Any],
    folder: SpeechFolder,
    *,
    language: str = "en",
    batch: int = 8,
    data: str | None = None,
    told: Told | None = None,
) -> list[Measurement]:
    """Measure two Whisper models on the same recordings, as ``measure_speech`` does.

    Args:
        models: Two ``WhisperForConditionalGeneration``, the original first.
        processors: Of each.
        folder: The recordings, with transcripts or without.
        language: What is spoken.
        batch: Windows at once.
        data: What to call the recordings; by default the last two parts of their path.
        told: Called with how many recordings were heard.

    Returns:
        Word error rate in percent (only with transcripts), and the share of unchanged texts.
    """
    data = data or folder.name
    audio = folder.audio()
    texts = []
    for number, (model, processor) in enumerate(zip(models, processors, strict=True)):

        def share(done: float, before: int = number) -> None:
            if told is not None:
                told(len(audio) * (before + done) / len(models))

        texts.append(
            transcribe(model, processor, audio, language=language, batch=batch, told=share)
        )
    rows = []
    if folder.has_transcripts:
        said = folder.references()
        old, new = (word_errors(said, some, language=language) for some in texts)
        rates = 100 * old.rate, 100 * new.rate
        rows.append(Measurement("wer", "Word error rate", data, "%", *rates, words=old.words))
    same = 100 * float(np.mean([one == other for one, other in zip(*texts, strict=True)]))
    return [*rows, Measurement("same_text", "Unchanged texts", data, "%", None, same, "higher")]


def measure_own_text(
    models: Sequence[Any],
    tokenizers: Sequence[Any],
    path: Path,
    *,
    causal: bool,
    data: str | None = None,
    told: Told | None = None,
) -> list[Measurement]:
    """Measure two text models on the same file, as ``measure_text`` does.

    Args:
        models: The original first.
        tokenizers: Of each.
        path: UTF-8 text.
        causal: Whether they predict the next token; others are compared by the mean of their last
            hidden states over each document.
        data: What to call the text; by default the last two parts of its path.
        told: Called with which share of it was read.

    Returns:
        Perplexity by each one's own tokens and bits per byte; or the mean cosine similarity.
    """
    data = data or data_name(path)
    texts = read_documents(path)
    runs: list[TextRun] = []
    for number, (model, tokenizer) in enumerate(zip(models, tokenizers, strict=True)):

        def share(done: float, before: int = number) -> None:
            if told is not None:
                told((before + done / len(texts)) / len(models))

        runs += compare_text([model], tokenizer, texts, causal=causal, told=share)[0]
    if not causal:
        mean = similarity_of(*runs)
        title = "Mean similarity of documents"
        return [Measurement("similarity", title, data, "", None, mean, "higher")]
    size = sum(len(text.encode()) for text in texts)
    old, new = (
        Perplexity(sum(float(one.sum()) for one in run.losses), sum(map(len, run.losses)), size)
        for run in runs
    )
    return [
        Measurement(
            "bits_per_byte", "Bits per byte", data, "bit", old.bits_per_byte, new.bits_per_byte
        ),
        Measurement(
            "perplexity", "Perplexity, by own tokens", data, "", old.perplexity, new.perplexity
        ),
    ]


def similarity_of(reference: TextRun, other: TextRun) -> float:
    """Return the mean cosine of documents' mean hidden states, of two runs on the same ones."""
    runs = reference, other
    old, new = (np.zeros((1, 1)) if run.pooled is None else run.pooled for run in runs)
    norms = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
    cosines = (old * new).sum(axis=1) / np.where(norms > 0, norms, 1.0)
    return float(cosines[norms > 0].mean()) if (norms > 0).any() else 1.0
