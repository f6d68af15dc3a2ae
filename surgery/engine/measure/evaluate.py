"""Evaluate: any number of models on the same data, with intervals, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from surgery.choices.common import choice
from surgery.engine.measure.candidates import Candidate, load_candidates, open_candidates
from surgery.engine.measure.input import (
    EMBEDDED,
    EMBEDDED_CLIPS,
    data_kind,
    embedded,
)
from surgery.engine.measure.leakage import refuse_leakage, shared_samples
from surgery.engine.measure.one_set import DataOf, measure_set, open_set
from surgery.errors import TargetError, UsageError
from surgery.evaluation.bootstrap import RESAMPLES, Bootstrap
from surgery.evaluation.data import Speech, Texts
from surgery.evaluation.perplexity import LONGEST_CONTEXT, Division, longest_context
from surgery.evaluation.questions import Questions
from surgery.evaluation.results import DataSet, Evaluation, Row
from surgery.evaluation.unused import warn_of_unused
from surgery.evaluation.wer import normalise
from surgery.events import Event, Progress, ignore
from surgery.report.text.few_words import few_words
from surgery.stored.loading import check_device
from surgery.version import versions

FEWEST = 20  # samples that an interval wants


def evaluate(
    models: str | Path | Sequence[str | Path],
    data: str | Path | Sequence[str | Path],
    *,
    limit: int | None = None,
    text: Division | None = None,
    language: str = "en",
    batch: int = 8,
    seed: int = 0,
    resamples: int = RESAMPLES,
    device: str | None = None,
    dtype: str | None = None,
    allow_leakage: bool = False,
    output: str | Path | None = None,
    progress: Progress = ignore,
) -> Evaluation:
    """Measure models on real input, all on the same, each figure with its 95 % interval.

    Args:
        models: Directories, names or ``.pt`` files of one family; the first is the reference.
        data: For Whisper, folders of audio, with ``transcripts.tsv`` for word error rates; for
            text models, text files or folders of them, or JSONL of questions with choices
            (:data:`surgery.evaluation.questions.FORM`); ``hub:OWNER/NAME[@REVISION][#SPLIT]``; or
            ``whisper-micro``, the clips that the package ships.
        limit: Only the first so many recordings, documents or questions of each set.
        text: What is a document of text, whose tokens see nothing of another: ``documents`` (the
            default) takes rows of JSONL, the lines of a file where they stand for themselves, and
            other files whole; ``lines`` every row and line; ``running`` every file whole.
        language: What is spoken, for a multilingual Whisper and for the normaliser.
        batch: Windows at once.
        seed: Where the draws of the intervals begin.
        resamples: Draws of the intervals.
        device: Where to run; the CPU by default.
        dtype: ``float32``, ``float16`` or ``bfloat16`` for all models; by default float32 on a
            CPU and each model's own elsewhere.
        allow_leakage: Measure also on data that a model was calibrated on, and label it.
        output: Write the JSON document here, too.
        progress: Called with :class:`surgery.events.Event`.

    Returns:
        One row a model and set of data. Times are taken with the models interleaved on the same
        input, after a warm-up.

    Raises:
        UsageError: Models or data do not go together, or the data is not new to a model.
        SurgeryError: A model or data cannot be read; it says what.
    """
    asked = [models] if isinstance(models, str | Path) else list(models)
    places = [data] if isinstance(data, str | Path) else list(data)
    for name, number in (("limit", limit), ("batch", batch), ("resamples", resamples)):
        if number is not None and number < 1:
            raise UsageError(f"{name} must be at least one", found=number)
    if not places:
        raise UsageError("Name at least one set of data to measure on", where="--data")
    choice("--text", text, (None, *get_args(Division)))
    check_device(device)
    target = None if output is None else _writable(Path(output))
    with ExitStack() as opened:
        candidates = open_candidates(opened, asked, progress)
        speech = data_kind(candidates[0].source) == "audio"
        clips = opened.enter_context(embedded(EMBEDDED_CLIPS))
        whereabouts = [clips if str(place) == EMBEDDED else place for place in places]
        if speech and text is not None:
            raise UsageError(
                "--text says how text divides, and Whisper is measured on recordings", found=text
            )
        division = text or "documents"
        sets = _open(whereabouts, speech=speech, limit=limit, division=division)
        if text is not None and all(isinstance(one, Questions) for one in sets):
            raise UsageError(
                "--text says how text divides, and these are questions with choices", found=text
            )
        leaked = _leaked(candidates, sets, allow=allow_leakage, progress=progress)
        progress(Event("Loading models", 0, len(candidates)))
        loaded, words, kind = load_candidates(candidates, device=device, dtype=dtype)
        progress(Event("Loading models", len(candidates), len(candidates)))
        bootstrap = Bootstrap(resamples=resamples, seed=seed)
        measured: list[DataSet] = []
        rows: list[Row] = []
        notes: list[str] = []
        for place, one in zip(places, sets, strict=True):
            told = _told(one, progress)
            found = measure_set(
                loaded, words, one, bootstrap, kind=kind, language=language, batch=batch, told=told
            )
            told(len(one))
            if isinstance(one, Speech) and "wer" in found.figures[0].values:
                texts = one.references() or ()
                few = few_words(sum(len(normalise(text, language).split()) for text in texts))
                notes += [f"{one.name}: {few}"] if few else []
            units = list[str](one.units) if isinstance(one, Texts) else []
            measured.append(
                DataSet(one.name, str(place), len(one), found.amount, found.drawn, units)
            )
            for candidate, figures, drifts in zip(
                candidates, found.figures, found.layers, strict=True
            ):
                mark = (candidate.name, one.name) in leaked
                rows.append(
                    Row(candidate.name, one.name, mark, figures.values, figures.changes, drifts)
                )
        settings = {
            "limit": limit,
            "text": None if speech else division,
            "context": None if speech else min(LONGEST_CONTEXT, *map(longest_context, loaded)),
            "language": language if speech else None,
            "batch": batch,
            "seed": seed,
            "resamples": resamples,
            "device": str(loaded[0].device),
            "dtype": [str(model.dtype).removeprefix("torch.") for model in loaded],
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
        described = [candidate.described for candidate in candidates]
        notes += _notes(rows, measured)
        result = Evaluation(kind, described, measured, rows, settings, notes)
    if target is not None:
        _write(result, target)
    return result


def _open(
    places: Sequence[str | Path], *, speech: bool, limit: int | None, division: Division
) -> list[DataOf]:
    opened: list[DataOf] = []
    for place in places:
        one = open_set(place, speech=speech, limit=limit, division=division)
        if str(place) in map(str, places[: len(opened)]):
            raise UsageError("The same data is named twice", where="--data", found=place)
        if any(other.name == one.name for other in opened):
            one = replace(one, name=str(place))  # another folder of the same last two parts
        warn_of_unused(Path(place), one.kind)
        if isinstance(one, Speech):
            one.references()  # refused here, not after an hour, where some words are missing
        opened.append(one)
    return opened


def _leaked(
    candidates: Sequence[Candidate],
    sets: Sequence[DataOf],
    *,
    allow: bool,
    progress: Progress,
) -> set[tuple[str, str]]:
    """Return which model knows which data; refuse where that is not allowed."""
    if not any(candidate.calibrated for candidate in candidates):
        return set()
    found = set()
    for index, one in enumerate(sets):
        progress(Event("Looking for samples that calibrated a model", index, len(sets), one.name))
        prints = one.fingerprints()
        for candidate in candidates:
            shared = shared_samples(candidate.calibrated, one.kind, prints)
            if shared and not allow:
                refuse_leakage(shared, model=candidate.name, data=one.name)
            if shared:
                found.add((candidate.name, one.name))
    progress(Event("Looking for samples that calibrated a model", len(sets), len(sets)))
    return found


def _told(data: DataOf, progress: Progress) -> Callable[[float], None]:
    """Return what tells how much of a set is done."""
    total, stage = len(data), f"Measuring on {data.name}"
    progress(Event(stage, 0, total))
    return lambda done: progress(Event(stage, done, total))


def _notes(rows: Sequence[Row], data: Sequence[DataSet]) -> list[str]:
    notes = []
    for row in rows:
        if row.leaked:
            notes.append(f"{row.model} was calibrated on some of {row.data}: its figures flatter")
    for one in data:
        if one.samples < FEWEST and not one.resampled.startswith("blocks"):
            notes.append(f"{one.name}: {one.samples} {one.resampled} make intervals too narrow")
    return notes


def _writable(path: Path) -> Path:
    """Refuse a file that cannot be written, before hours are spent.

    Raises:
        TargetError: Its folder is not there, or it is a folder itself.
    """
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise TargetError(
            "The evaluation cannot be written here",
            where=path,
            found="a folder" if path.is_dir() else "no such folder",
            expected="a file name in a folder that exists",
        )
    return path


def _write(result: Evaluation, path: Path) -> None:
    staged = path.with_name(f".{path.name}.part")
    try:
        staged.write_text(result.to_json(), encoding="utf-8")
        staged.replace(path)
    except OSError as error:
        raise TargetError("The evaluation cannot be written", where=path, found=error) from error
