"""The price on real input: original and result side by side, by what the family is made for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.architectures.vocabulary import ROWS
from surgery.checkpoint.directory import read_json
from surgery.checkpoint.source import TensorSource
from surgery.engine.measure.heads import hears, writes
from surgery.engine.measure.input import (
    EMBEDDED,
    EMBEDDED_CLIPS,
    check_data,
    data_kind,
    embedded,
    processor_of,
    read_processor,
)
from surgery.events import Event, Progress
from surgery.report.model.report import Measurement
from surgery.stored.dense import dense_directory

if TYPE_CHECKING:
    from surgery.evaluation.audio import SpeechFolder

CONFIG = "config.json"


def measure(
    source: TensorSource,
    result: Path,
    data: str | Path | None,
    progress: Progress,
    *,
    sample: TensorSource | None = None,
) -> list[Measurement]:
    """Run original and result on real input and return the rows of the report.

    Args:
        source: The original.
        result: Directory of the result.
        data: Audio folder (Whisper) or text file; without one only the embedded model is
            measured, on its own held-out clips.
        progress: Called with :class:`surgery.events.Event`.
        sample: The result; where it is given, and no ``data``, what the package ships is heard
            or read: some speech, synthetic clips by the embedded model, or a page of text.

    Raises:
        UsageError: The data does not fit the model.
    """
    if data is None and sample is None and source.name != EMBEDDED:
        return []
    check_data(source, data)
    audio = data_kind(source) == "audio"
    if audio and not hears(source):
        return []
    stage, named = "Measuring on real input", str(data or "embedded data")
    progress(Event(stage, 0, 1, named))

    def told(share: float) -> None:
        progress(Event(stage, share, 1, named))

    with dense_directory(source) as directory:
        if audio:
            # Windows of a few seconds and a tiny model: more at once is twice as quick.
            batch = 48 if source.name == EMBEDDED else 8
            with clips(source, sample, data) as (speech, name):
                rows = _speech(source, directory, result, speech, name, batch=batch, told=told)
        else:
            rows = _text(source, directory, result, data, told=told)
    progress(Event(stage, 1, 1))
    return rows


def _speech(
    source: TensorSource,
    original: Path,
    result: Path,
    speech: SpeechFolder,
    name: str | None,
    *,
    batch: int,
    told: Callable[[float], None],
) -> list[Measurement]:
    from surgery.evaluation.measure import measure_encoders, measure_speech
    from surgery.evaluation.own_words import measure_own_speech
    from surgery.stored.loading import load

    def at(done: float) -> None:
        told(done / len(speech.utterances))

    if writes(source) and has_other_words(source, result):
        models, places = (load(original), load(result)), (original, result)
        processors = [processor_of(source, place) for place in places]
        return measure_own_speech(models, processors, speech, batch=batch, data=name, told=at)
    measured = measure_speech if writes(source) else measure_encoders
    return measured(
        load(original),
        load(result),
        processor_of(source, result),
        speech,
        batch=batch,
        data=name,
        told=at,
    )


@contextmanager
def clips(
    source: TensorSource, result: TensorSource | None, data: str | Path | None
) -> Iterator[tuple[SpeechFolder, str | None]]:
    """Yield what is heard, and what to call it where its place does not say."""
    from surgery.evaluation.audio import SpeechFolder

    if data is not None:
        yield SpeechFolder.open(Path(data)), None
    elif source.name == EMBEDDED or result is None:
        with embedded(EMBEDDED_CLIPS) as folder:
            yield SpeechFolder.open(folder), "embedded dialled digits (synthetic)"
    else:
        from surgery.engine.measure.own_speech import own_speech

        with own_speech(result) as (speech, name):
            yield speech, name


def has_other_words(source: TensorSource, result: Path) -> bool:
    """Whether a result has another vocabulary than its original."""
    there = read_json(result / CONFIG) if (result / CONFIG).is_file() else {}
    return ROWS in there and there[ROWS] != source.config.get(ROWS, there[ROWS])


def _text(
    source: TensorSource,
    original: Path,
    result: Path,
    data: str | Path | None,
    *,
    told: Callable[[float], None],
) -> list[Measurement]:
    from surgery.calibration.witness import output_of_text
    from surgery.evaluation.measure import measure_embeddings, measure_text
    from surgery.evaluation.own_words import measure_own_text
    from surgery.stored.loading import load

    with embedded("sample.txt") if data is None else _given(data) as path:
        named = "sample text of the package" if data is None else None
        tokenizer = read_processor(result, "text")
        models = load(original), load(result)
        # Heads that classify say little of a text as a whole: what they stand on is compared.
        predicts = all(output_of_text(model) == "next token" for model in models)
        if has_other_words(source, result):
            tokenizers = [read_processor(place, "text") for place in (original, result)]
            return measure_own_text(
                models, tokenizers, path, causal=predicts, data=named, told=told
            )
        measured = measure_text if predicts else measure_embeddings
        return measured(*models, tokenizer, path, data=named, told=told)


@contextmanager
def _given(data: str | Path) -> Iterator[Path]:
    yield Path(data)
