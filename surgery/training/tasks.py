"""What a model learns from: recordings for Whisper, packed text for causal language models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import Dataset, Subset

from surgery.checkpoint.source import TensorSource
from surgery.choices.places import data_name
from surgery.engine.measure.input import data_kind, processor_of
from surgery.errors import UsageError
from surgery.evaluation.audio import SpeechFolder, Utterance
from surgery.evaluation.kinds import Kind
from surgery.evaluation.rows import read_text
from surgery.evaluation.vocabulary import may_exceed, rows_of
from surgery.stored.dense import words_of
from surgery.training.examples import hold_out
from surgery.training.options import TuneOptions
from surgery.training.packing import PackedText, collate_text
from surgery.training.speech_data import (
    SpeechExamples,
    check_transcripts,
    collate_speech,
    spoken,
)
from surgery.training.text_data import check_words, read_examples

MOST_HELD_OUT = 64
LONGEST_ROW = 512

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Task:
    """Samples to learn from and to watch.

    Attributes:
        kind: ``text`` or ``audio``.
        name: What to call the data: the last two parts of its path.
        train: Samples to learn from.
        held_out: Samples kept back; ``None`` where there are none.
        collate: Makes a batch of samples.
        recordings: The recordings kept back, to be transcribed; empty for text.
        tokens: Labels that count in the samples to learn from; an estimate where some are kept
            back.
    """

    kind: Kind
    name: str
    train: Dataset[Batch]
    held_out: Dataset[Batch] | None
    collate: Callable[[Sequence[Mapping[str, Tensor]]], Batch]
    recordings: tuple[Utterance, ...] = ()
    tokens: int = 0

    @property
    def samples(self) -> int:
        """How many samples there are to learn from."""
        return len(self.train)  # type: ignore[arg-type]  # all of ours are map-style

    @property
    def unit(self) -> Literal["recordings", "rows"]:
        """What a sample is."""
        return "recordings" if self.kind == "audio" else "rows"


def check_training_data(path: Path, kind: Kind) -> None:
    """Refuse data of the wrong kind, before anything is prepared.

    Raises:
        UsageError: There is nothing there, or Whisper is given text.
        SurgeryError: Transcripts are missing, there is no text, or a row is malformed or has no
            words to learn; names file and line.
    """
    if not path.exists():
        raise UsageError("There is no such training data", where="--data", found=path)
    if kind == "audio":
        if not path.is_dir():
            raise UsageError(
                "Whisper learns from a folder of audio",
                where="--data",
                found=path,
                expected="a folder with audio files and transcripts.tsv",
            )
        spoken(SpeechFolder.open(path))
    else:
        for document in read_text(path):
            check_words(document)


def check_training_words(source: TensorSource, data: Path) -> None:
    """Refuse data with a token that the model has no embedding for, before anything is prepared.

    Raises:
        CheckpointError: Names tokenizer, token and vocabulary; or there is no tokenizer.
    """
    rows = source.config.get("vocab_size")
    if not isinstance(rows, int):
        return
    with words_of(source) as place:
        processor = processor_of(source, place)
    if data_kind(source) == "audio":
        check_transcripts(SpeechFolder.open(data), processor, rows)
    elif may_exceed(processor, rows):
        read_examples(data, processor, rows)


def open_task(path: Path, kind: Kind, processor: Any, model: Any, options: TuneOptions) -> Task:
    """Open training data and keep a share of it back.

    Args:
        path: Folder of audio; or text, ``.jsonl``, or a folder of these.
        kind: What the model takes.
        processor: Whisper's processor, or the tokenizer.
        model: The model that learns; asked how its texts begin, not changed.
        options: Share held out, length of a row, language, seed.

    Raises:
        SurgeryError: Something cannot be used; says which file and line.
        UsageError: Too little is left to learn from.
    """
    name = data_name(path)
    if kind == "audio":
        folder = SpeechFolder.open(path)
        everything: Any = SpeechExamples(folder, processor, model, options.language)
        collate: Any = collate_speech
    else:
        length = row_length(model.config.to_dict(), options.length)
        examples = read_examples(path, processor, rows_of(model))
        everything, collate = PackedText(examples, length), collate_text
    train, kept = hold_out(len(everything), _share(len(everything), options.held_out), options.seed)
    if not train:
        raise UsageError(
            "There is too little data to keep some back",
            where="--data",
            found=f"{len(everything)} samples",
            hint="give more, or --held-out 0",
        )
    recordings = tuple(folder.utterances[index] for index in kept) if kind == "audio" else ()
    return Task(
        kind=kind,
        name=name,
        train=Subset(everything, train),
        held_out=Subset(everything, kept) if kept else None,
        collate=collate,
        recordings=recordings,
        tokens=round(everything.targets * len(train) / len(everything)),
    )


def _share(count: int, share: float) -> float:
    """Return the share to keep back, so that it is not more than is needed to watch."""
    return min(share, MOST_HELD_OUT / count) if count else share


def row_length(config: Mapping[str, Any], asked: int | None) -> int:
    """Return how many tokens a row of packed text has.

    Args:
        config: What config.json says of the model.
        asked: How many were asked for.

    Raises:
        UsageError: The model cannot see as far as asked.
    """
    named = ("max_position_embeddings", "n_positions")
    longest = next((int(config[name]) for name in named if config.get(name)), LONGEST_ROW)
    if asked is not None and asked > longest:
        raise UsageError(
            "A row is longer than the model can see",
            where="--length",
            found=asked,
            expected=f"at most {longest} tokens",
        )
    return asked or min(longest, LONGEST_ROW)
