"""The price on real input: original and result side by side, by what the family is made for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.source import TensorSource
from surgery.engine.dense import dense_directory, words_directory
from surgery.engine.heads import check_hears, hears, writes
from surgery.errors import CheckpointError, UsageError
from surgery.evaluation.kinds import Kind
from surgery.events import Event, Progress
from surgery.report.model import Measurement

if TYPE_CHECKING:
    from surgery.evaluation.audio import SpeechFolder

EMBEDDED = "whisper-micro"
EMBEDDED_CLIPS = "whisper_micro/test"


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
    if data_kind(source) == "audio" and not hears(source):
        return []
    stage, named = "Measuring on real input", str(data or "embedded data")
    progress(Event(stage, 0, 1, named))

    def told(share: float) -> None:
        progress(Event(stage, share, 1, named))

    family = source.config["model_type"]
    with dense_directory(source) as directory:
        if family == "whisper":
            # Windows of a few seconds and a tiny model: more at once is twice as quick.
            batch = 48 if source.name == EMBEDDED else 8
            with _clips(source, sample, data) as (clips, name):
                rows = _speech(source, directory, result, clips, name, batch=batch, told=told)
        else:
            rows = _text(directory, result, data, told=told)
    progress(Event(stage, 1, 1))
    return rows


def check_data(source: TensorSource, data: str | Path | None) -> None:
    """Refuse data that cannot be measured on, before hours are spent.

    Raises:
        UsageError: The data does not fit the model.
        SurgeryError: There are no recordings, or their list is malformed.
    """
    if data is None:
        return
    path = Path(data)
    if data_kind(source) == "audio":
        check_hears(source, "--data")
        if not path.is_dir():
            raise UsageError(
                "Whisper is measured on a folder of audio",
                where="--data",
                found=path if path.exists() else f"no such folder: {path}",
                expected="a folder with audio files, and transcripts.tsv for word error rates",
            )
        from surgery.evaluation.audio import SpeechFolder
        from surgery.evaluation.unused import warn_of_unused

        SpeechFolder.open(path)
        warn_of_unused(path, "audio")
    elif not path.is_file():
        raise UsageError(
            "A language model is measured on a text file",
            where="--data",
            found=path if path.exists() else f"no such file: {path}",
        )


def data_kind(source: TensorSource) -> Kind:
    """Return what a model is run on: recordings, or text."""
    return "audio" if source.config["model_type"] == "whisper" else "text"


def read_processor(directory: Path, kind: Kind, *, words: bool = True) -> Any:
    """Load Whisper's processor, or a language model's tokenizer, from a checkpoint.

    An adapter's are its base's.

    Args:
        directory: The checkpoint.
        kind: What the model is run on.
        words: Whether a Whisper's words are wanted too, or what hears will do.

    Raises:
        CheckpointError: The checkpoint has none that can be read.
    """
    from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperProcessor

    kinds: dict[Kind, Any] = {"audio": WhisperProcessor, "text": AutoTokenizer}
    try:
        with words_directory(directory) as place:
            if words:
                return kinds[kind].from_pretrained(place, local_files_only=True)
            ears: Any = WhisperFeatureExtractor  # untyped
            return SimpleNamespace(
                feature_extractor=ears.from_pretrained(place, local_files_only=True)
            )
    except Exception as error:  # nothing but its files goes in, and tokenizers raises bare ones
        raise CheckpointError(
            "The checkpoint's tokenizer or processor cannot be loaded, so no input can be read",
            where=directory,
            found=f"{type(error).__name__}: {error}",
            hint="put the original's tokenizer files beside its weights, or run nothing: cut with "
            "--by-weights and without --data, or verify with --weights-only",
        ) from error


def processor_of(source: TensorSource, directory: Path) -> Any:
    """Load what reads the input of a model, as :func:`read_processor`, from any of its results."""
    kind = data_kind(source)
    return read_processor(directory, kind, words=kind == "text" or writes(source))


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
    from surgery.engine.loading import load
    from surgery.evaluation.measure import measure_encoders, measure_speech

    measured = measure_speech if writes(source) else measure_encoders
    return measured(
        load(original),
        load(result),
        processor_of(source, result),
        speech,
        batch=batch,
        data=name,
        told=lambda done: told(done / len(speech.utterances)),
    )


@contextmanager
def _clips(
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
        from surgery.engine.own_speech import own_speech

        with own_speech(result) as (speech, name):
            yield speech, name


def _text(
    original: Path, result: Path, data: str | Path | None, *, told: Callable[[float], None]
) -> list[Measurement]:
    from surgery.calibration.witness import output_of_text
    from surgery.engine.loading import load
    from surgery.evaluation.measure import measure_embeddings, measure_text

    with embedded("sample.txt") if data is None else _given(data) as path:
        named = "sample text of the package" if data is None else None
        tokenizer = read_processor(result, "text")
        models = load(original), load(result)
        # Heads that classify say little of a text as a whole: what they stand on is compared.
        predicts = all(output_of_text(model) == "next token" for model in models)
        measured = measure_text if predicts else measure_embeddings
        return measured(*models, tokenizer, path, data=named, told=told)


@contextmanager
def embedded(name: str) -> Iterator[Path]:
    """Yield the path of data that the package ships."""
    with as_file(files("surgery") / "data" / name) as path:
        yield path


@contextmanager
def _given(data: str | Path) -> Iterator[Path]:
    yield Path(data)
