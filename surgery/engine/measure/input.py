"""What a model is run on: recordings or text, what reads them, and what the package has of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from surgery.architectures.known import input_of
from surgery.checkpoint.source import TensorSource
from surgery.engine.measure.heads import check_hears, writes
from surgery.errors import CheckpointError, UsageError
from surgery.evaluation.kinds import Kind
from surgery.stored.dense import words_directory

EMBEDDED = "whisper-micro"
EMBEDDED_CLIPS = "whisper_micro/test"


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
    return input_of(source.config["model_type"])


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


@contextmanager
def embedded(name: str) -> Iterator[Path]:
    """Yield the path of data that the package ships."""
    with as_file(files("surgery") / "data" / name) as path:
        yield path
