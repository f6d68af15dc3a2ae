"""What uses tokens: texts, speech, and the words of languages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from surgery.checkpoint.source import TensorSource
from surgery.choices.places import data_name
from surgery.engine.measure.heads import writes
from surgery.engine.measure.input import data_kind, processor_of
from surgery.engine.vocabulary.options import TrimOptions
from surgery.engine.vocabulary.words import counted_words, frequent_words, uses_of_words
from surgery.errors import SurgeryError, UsageError
from surgery.events import Event, Progress
from surgery.stored.tokens import Tokens
from surgery.vocabulary.tokenizer import Vocabulary


@dataclass(frozen=True)
class Use:
    """One thing that uses tokens.

    Attributes:
        name: What to call it.
        uses: How often it uses each token: a number, or of words a share.
        kept: The tokens of it that stay, where all fit.
        texts: What it is, where it is text; words are none.
    """

    name: str
    uses: Mapping[int, float]
    kept: frozenset[int]
    texts: tuple[str, ...] = ()


def uses_of(
    source: TensorSource, tokens: Tokens, options: TrimOptions, progress: Progress
) -> list[Use]:
    """Return everything that uses tokens, by what was asked for.

    Raises:
        UsageError: It cannot be read, or does not fit the model.
        SurgeryError: A text is absent, not UTF-8, or blank.
    """
    from surgery.evaluation.perplexity import read_documents  # late: it imports torch's models

    vocabulary, spoken = tokens.vocabulary, data_kind(source) == "audio"
    found: list[tuple[str, list[str]]] = []
    for place in options.keep_text:
        texts = read_documents(Path(place))
        if spoken:  # what a Whisper writes begins with a space
            lines = [line for text in texts for line in text.splitlines() if line.strip()]
            texts = [begin + line for begin in (" ", "") for line in lines]
        found.append((data_name(place), texts))
    for place in options.keep_speech:
        found.append((data_name(place), _written(source, Path(place), progress)))
    every = []
    for name, texts in found:
        progress(Event("Counting tokens", 0, 1, name))
        counts = vocabulary.uses(texts)
        every.append(Use(name, counts, frozenset(counts), tuple(texts)))
        progress(Event("Counting tokens", 1, 1))
    total = sum((Counter(each.uses) for each in every), Counter[int]())
    often = {number for number, times in total.items() if times >= options.min_count}
    every = [Use(one.name, one.uses, one.kept & often, one.texts) for one in every]
    return every + [_of_language(vocabulary, code, options) for code in options.languages]


def named_tokens(options: TrimOptions, tokens: Tokens) -> set[int]:
    """Return the tokens that a file names.

    Raises:
        UsageError: It cannot be read, or names what is no token.
    """
    if options.keep_tokens is None:
        return set()
    path = Path(options.keep_tokens)
    try:
        text = path.read_text(encoding="utf-8")
        listed = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise UsageError("The tokens cannot be read", where=path, found=error) from error
    if not isinstance(listed, list):
        raise UsageError("The file holds no list", where=path, found=type(listed).__name__)
    ids = tokens.vocabulary.ids
    found = set()
    for at, one in enumerate(listed):
        number = one if isinstance(one, int) and not isinstance(one, bool) else ids.get(str(one))
        if one == "":
            continue
        if number is None or not 0 <= number < tokens.rows:
            raise UsageError(
                "The file names what is no token",
                where=f"{path}, entry {at + 1}",
                found=repr(one),
                expected="tokens as the tokenizer spells them (Ġhello, ▁hello, ##ing), or ids",
            )
        found.add(number)
    return found


def _of_language(vocabulary: Vocabulary, code: str, options: TrimOptions) -> Use:
    if options.most_words == 0:
        return Use(code, {}, frozenset())
    words = counted_words(frequent_words(code), options.most_words, options.coverage)
    uses = uses_of_words(vocabulary, words)
    name = f"the {len(words):,} most frequent words of {code}"
    return Use(name, uses, frozenset(uses))


def _written(source: TensorSource, folder: Path, progress: Progress) -> list[str]:
    """Return what a Whisper writes of some recordings, each in the language that it hears.

    Raises:
        UsageError: It writes nothing, or these are no recordings.
    """
    from surgery.evaluation.audio import SpeechFolder
    from surgery.evaluation.transcribe import AUTO, transcribe
    from surgery.stored.dense import dense_directory
    from surgery.stored.loading import load

    if data_kind(source) != "audio" or not writes(source):
        raise UsageError(
            "This model writes nothing of recordings",
            where="--keep-speech",
            hint="give text with --keep-text",
        )
    if not folder.is_dir():
        raise UsageError("There is no such folder of recordings", where=folder)
    speech = SpeechFolder.open(folder)
    with dense_directory(source) as directory:
        texts = transcribe(
            load(directory),
            processor_of(source, directory),
            [one.audio() for one in speech.utterances],
            language=AUTO,
            told=lambda share: progress(Event("Transcribing", share, 1, data_name(folder))),
        )
    if not any(texts):
        raise SurgeryError("Nothing was understood of the recordings.", where=folder)
    return [f" {text}" for text in texts if text]


def joint_worth(uses: Iterable[Use]) -> dict[int, float]:
    """Return how often each token is used: every source of the same weight, as shares."""
    found: dict[int, float] = {}
    for one in uses:
        total = sum(one.uses.values()) or 1.0
        for number, times in one.uses.items():
            found[number] = found.get(number, 0.0) + times / total
    return found
