"""Before and after on real input: the measured rows of a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from surgery.choices.places import data_name
from surgery.evaluation.audio import Audio, SpeechFolder
from surgery.evaluation.drift import EncoderDrift, encoder_drift
from surgery.evaluation.perplexity import Division, Perplexity, read_documents
from surgery.evaluation.speech import compare_speech
from surgery.evaluation.text import compare_text
from surgery.evaluation.wer import word_errors
from surgery.report.model.report import Measurement

Told = Callable[[float], None]


def measure_speech(
    original: Any,
    restructured: Any,
    processor: Any,
    folder: SpeechFolder,
    *,
    language: str = "en",
    batch: int = 8,
    max_new_tokens: int | None = None,
    data: str | None = None,
    told: Told | None = None,
) -> list[Measurement]:
    """Measure two Whisper models on the same recordings.

    Args:
        original: A ``WhisperForConditionalGeneration``.
        restructured: Another, with the same processor.
        processor: Feature extractor and tokenizer of both.
        folder: The recordings, with transcripts or without.
        language: What is spoken; see :func:`surgery.evaluation.transcribe.transcribe`.
        batch: Windows at once.
        max_new_tokens: Longest text of one window; a badly damaged model repeats itself to
            the limit, and this bounds the time that takes.
        data: What to call the recordings; by default the last two parts of their path.
        told: Called with how many recordings were heard.

    Returns:
        Word error rate in percent (only with transcripts), the share of recordings whose
        text did not change, and the relative error of the encoder's output.
    """
    data = data or folder.name
    runs, _ = compare_speech(
        [original, restructured],
        processor,
        folder.utterances,
        language=language,
        batch=batch,
        max_new_tokens=max_new_tokens,
        told=told,
    )
    before, after = (run.texts for run in runs)
    rows = []
    if folder.has_transcripts:
        said = folder.references()
        old, new = (word_errors(said, texts, language=language) for texts in (before, after))
        rates = 100 * old.rate, 100 * new.rate
        rows.append(Measurement("wer", "Word error rate", data, "%", *rates, words=old.words))
    same = [one == other for one, other in zip(before, after, strict=True)]
    rows.append(
        Measurement(
            "same_text", "Unchanged texts", data, "%", None, 100 * sum(same) / len(same), "higher"
        )
    )
    drift = runs[1].encoder
    return rows if drift is None else rows + _encoder_rows(drift, data)


def measure_encoders(
    original: Any,
    restructured: Any,
    processor: Any,
    folder: SpeechFolder,
    *,
    batch: int = 8,
    data: str | None = None,
    told: Told | None = None,
) -> list[Measurement]:
    """Measure two Whisper models that write no text on the same recordings.

    Args:
        original: A Whisper with an encoder: a classifier of audio, or the model without a head.
        restructured: Another, of the same window and width.
        processor: What has the ``feature_extractor`` of both.
        folder: The recordings.
        batch: Windows at once.
        data: What to call the recordings; by default the last two parts of their path.
        told: Called with the number of recordings read so far.

    Returns:
        The relative error of the encoder's output.
    """

    def read() -> Iterator[Audio]:
        for number, recording in enumerate(folder.utterances):
            yield recording.audio()
            if told is not None:
                told(number + 1)

    audio = read()
    drift = encoder_drift(original, restructured, processor, audio, batch=batch)
    return _encoder_rows(drift, data or folder.name)


def _encoder_rows(drift: EncoderDrift, data: str) -> list[Measurement]:
    return [
        Measurement(metric, f"Encoder output error, {what}", data, "relative", None, value)
        for metric, what, value in (
            ("encoder_error", "speech", drift.speech),
            ("encoder_error_window", "whole window", drift.window),
        )
    ]


def measure_text(
    original: Any,
    restructured: Any,
    tokenizer: Any,
    path: Path,
    *,
    division: Division = "documents",
    context: int | None = None,
    data: str | None = None,
    told: Told | None = None,
) -> list[Measurement]:
    """Measure two causal language models on the same text file.

    Args:
        original: A causal language model.
        restructured: Another, with the same tokenizer.
        tokenizer: The tokenizer of both.
        path: UTF-8 text.
        division: How the file divides; see
            :func:`surgery.evaluation.perplexity.read_documents`.
        context: Tokens a window; by default the model's, at most 2048.
        data: What to call the text; by default the last two parts of its path.
        told: Called with which share of it was read.

    Returns:
        Perplexity, bits per byte, relative error of the logits, KL divergence, and the share
        of positions with the same most likely token.
    """
    data = data or data_name(path)
    texts = read_documents(path, division)
    models, told = [original, restructured], _share(told, len(texts))
    runs, _ = compare_text(models, tokenizer, texts, context=context, told=told)
    size = sum(len(text.encode()) for text in texts)
    before, after = (
        Perplexity(sum(float(one.sum()) for one in run.losses), sum(map(len, run.losses)), size)
        for run in runs
    )
    rows = [
        Measurement("perplexity", "Perplexity", data, "", before.perplexity, after.perplexity),
        Measurement(
            "bits_per_byte", "Bits per byte", data, "bit", before.bits_per_byte, after.bits_per_byte
        ),
    ]
    drift = runs[1].drift
    if drift is None:
        return rows
    rows.append(Measurement("output_error", "Logits error", data, "relative", None, drift.relative))
    if drift.divergence is not None and drift.agreement is not None:
        kl, same = drift.divergence, 100 * drift.agreement
        rows += [
            Measurement("kl_divergence", "KL divergence", data, "nat/token", None, kl),
            Measurement("same_token", "Same most likely token", data, "%", None, same, "higher"),
        ]
    return rows


def measure_embeddings(
    original: Any,
    restructured: Any,
    tokenizer: Any,
    path: Path,
    *,
    data: str | None = None,
    told: Told | None = None,
) -> list[Measurement]:
    """Measure two models that predict nothing on the same text file, as :func:`measure_text`.

    Returns:
        Relative error of the last hidden states.
    """
    data = data or data_name(path)
    models, texts = [original, restructured], read_documents(path)
    told = _share(told, len(texts))
    runs, _ = compare_text(models, tokenizer, texts, causal=False, told=told)
    drift = runs[1].drift
    if drift is None:
        return []
    return [Measurement("output_error", "Output error", data, "relative", None, drift.relative)]


def _share(told: Told | None, count: int) -> Told | None:
    """Return what turns a number of documents into a share of them."""
    return None if told is None else lambda done: told(done / count)
