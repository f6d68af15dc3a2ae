"""Models that are to be compared: named, opened, checked against the first, and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.architectures import ARCHITECTURES
from surgery.architectures.known import predicts_next
from surgery.checkpoint.source import TensorSource
from surgery.engine.measure.heads import writes
from surgery.engine.measure.input import data_kind, read_processor
from surgery.engine.measure.leakage import Calibration, known_to
from surgery.errors import CheckpointError, UsageError
from surgery.evaluation.results import Evaluated, Kind
from surgery.events import Progress, ignore
from surgery.stored.adapted import open_model
from surgery.stored.block import read_operations
from surgery.stored.dense import dense_directory
from surgery.stored.loading import load_opened
from surgery.stored.stored import check_config


@dataclass(frozen=True)
class Candidate:
    """One model before it is loaded.

    Attributes:
        name: What to call it: the last part of its path, or as much as tells it from others.
        asked: What the user called it.
        source: Its checkpoint.
        directory: A directory that ``surgery.load`` can load.
        calibrated: What its operations were calibrated on.
    """

    name: str
    asked: str
    source: TensorSource
    directory: Path
    calibrated: list[Calibration]

    @property
    def described(self) -> Evaluated:
        """What the evaluation says of it."""
        parameters = 0
        for info in self.source.infos.values():
            size = 1
            for extent in info.shape:
                size *= extent
            parameters += size
        operations = read_operations(self.source.config, where=self.source.name)
        methods = [operation["method"] for operation in operations]
        return Evaluated(self.name, self.asked, parameters, methods)


def open_candidates(
    opened: ExitStack, models: Sequence[str | Path], progress: Progress = ignore
) -> list[Candidate]:
    """Open every model, adapters on their bases; ``opened`` closes them.

    Raises:
        UsageError: There is none, or they are of different families.
        SurgeryError: One cannot be found or read.
    """
    if not models:
        raise UsageError("Name at least one model to evaluate")
    asked = [str(model) for model in models]
    found = []
    for name, model in zip(distinct_names(asked), asked, strict=True):
        source = opened.enter_context(open_model(model, progress=progress))
        check_config(source)
        directory = opened.enter_context(dense_directory(source))
        found.append(Candidate(name, model, source, directory, known_to(source)))
    first = found[0]
    for other in found[1:]:
        families = [one.source.config["model_type"] for one in (first, other)]
        if families[0] != families[1]:
            raise UsageError(
                "Models of different families cannot be measured side by side",
                where=other.asked,
                found=families[1],
                expected=f"{families[0]}, like {first.asked}",
                hint="evaluate them one by one",
            )
    return found


def distinct_names(asked: Sequence[str]) -> list[str]:
    """Return the last part of each path, with as many parts before it as make it unique."""
    parts = [_parts(each) for each in asked]
    names = []
    for index, own in enumerate(parts):
        others = [other for other in parts if other != own]
        for length in range(1, len(own) + 1):
            name = "/".join(own[-length:]).replace("//", "/")
            if all(other[-length:] != own[-length:] for other in others):
                break
        same = sum(other == own for other in parts[:index])
        names.append(f"{name} ({same + 1})" if same else name)
    return names


def _parts(asked: str) -> tuple[str, ...]:
    path = Path(asked)
    parts = path.parts
    if not parts or parts[-1] == "..":
        parts = path.resolve().parts
    return parts


def load_candidates(
    candidates: Sequence[Candidate], *, device: str | None, dtype: str | None
) -> tuple[list[Any], Any, Kind]:
    """Load every model, and the tokenizer or processor of all of them.

    Raises:
        UsageError: Their vocabularies or front ends differ, or only some predict text.
        CheckpointError: One cannot be loaded, or has no tokenizer.
    """
    taken = data_kind(candidates[0].source)
    audio = taken == "audio"
    for one in candidates if audio else ():
        if not writes(one.source):
            raise _silent(one)
    tokenizers = [read_processor(one.directory, taken) for one in candidates]
    for one, tokenizer in zip(candidates[1:], tokenizers[1:], strict=True):
        _check_same_words(candidates[0], one, tokenizers[0], tokenizer, audio=audio)
    models: list[Any] = [
        load_opened(one.source, one.directory, dtype=dtype, device=device) for one in candidates
    ]
    return models, tokenizers[0], _kind(candidates, models, audio=audio)


def _check_same_words(
    first: Candidate, other: Candidate, ours: Any, theirs: Any, *, audio: bool
) -> None:
    found: object = None
    if audio:
        ears = [
            (each.feature_extractor.feature_size, each.feature_extractor.n_samples)
            for each in (ours, theirs)
        ]
        if ears[0] != ears[1]:
            expected, found = (f"{bins} mel bins, {samples} samples" for bins, samples in ears)
        ours, theirs = ours.tokenizer, theirs.tokenizer
    vocabularies = [each.get_vocab() for each in (ours, theirs)]
    if found is None and vocabularies[0] != vocabularies[1]:
        differing = len(vocabularies[0].items() ^ vocabularies[1].items())
        found = f"{len(vocabularies[1]):,} tokens, {differing:,} of both differ"
        expected = f"the {len(vocabularies[0]):,} tokens of {first.asked}"
    if found is not None:
        raise UsageError(
            "These models do not speak the same tokens, so nothing is comparable",
            where=other.asked,
            found=found,
            expected=expected,
            hint="evaluate them one by one",
        )


def _silent(one: Candidate) -> CheckpointError:
    family = ARCHITECTURES[one.source.config["model_type"]]
    return CheckpointError(
        f"This {family.title} has no text head on both towers, so it transcribes nothing",
        where=one.asked,
        expected=f"architectures: {family.classes[0].name} in config.json",
        hint="surgery verify compares what its encoder says",
    )


def _kind(candidates: Sequence[Candidate], models: Sequence[Any], *, audio: bool) -> Kind:
    """Return what all models are for."""
    speaks = [model.get_output_embeddings() is not None for model in models]
    if audio:
        if not all(speaks):
            raise _silent(candidates[speaks.index(False)])
        return "speech"
    if not predicts_next(candidates[0].source.config["model_type"]):
        return "embedding"
    if len(set(speaks)) > 1:
        raise UsageError(
            "Some of these models predict tokens and some do not",
            where=candidates[speaks.index(not speaks[0])].asked,
            found="no language-model head" if speaks[0] else "a language-model head",
            expected=f"the same as {candidates[0].asked}",
        )
    return "text" if speaks[0] else "embedding"
