"""Whether a Whisper's tokens are OpenAI's: openai-whisper and whisper.cpp go by their number alone.

A vocabulary that grew by one token has the size of another one of OpenAI's, in which every special
token lies elsewhere, and what they then say is nonsense without an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from surgery.checkpoint.directory import read_json
from surgery.checkpoint.whisper_vocabulary import END, vocabulary_of
from surgery.runtime.manifest import TRIM_VOCABULARY
from surgery.stored.stored import Stored

VOCABULARIES = (51864, 51865, 51866)
"""Sizes of the vocabularies that both runtimes know: English, multilingual, with Cantonese."""
START = 50257
"""The first token that openai-whisper tells a decoder, in the vocabulary with the lowest ids."""
SPELLINGS = {"<|nocaptions|>": "<|nospeech|>"}
"""Older tokenizers' names of the same tokens."""


def foreign(stored: Stored, size: int) -> str | None:
    """Say what shows that a vocabulary is none of OpenAI's; ``None`` where nothing does.

    The tokenizer decides, token by token. Where there is none, the ids do that the model's
    configuration names.

    Args:
        stored: A Whisper.
        size: How many tokens it has.
    """
    if size not in VOCABULARIES:
        return f"its vocabulary of {size} tokens is none of OpenAI's"
    theirs = vocabulary_of(size).names()
    for number, name in _named(stored):
        expected = theirs.get(number)
        if expected is not None and SPELLINGS.get(name, name) != expected:
            return (
                f"its vocabulary has the size of one of OpenAI's and is none of them: token "
                f"{number} is {name!r}, and {expected!r} there"
            )
    return None


def misread(stored: Stored, size: int) -> str | None:
    """Say why openai-whisper would transcribe nonsense without an error; ``None``: it would not.

    Of a vocabulary too small for its first token it transcribes nothing at all, which is told; but
    nobody trims one to have that.
    """
    reason = foreign(stored, size)
    trimmed = any(one["method"] == TRIM_VOCABULARY for one in stored.operations)
    return None if reason is None or (size <= START and not trimmed) else reason


def _named(stored: Stored) -> Iterator[tuple[int, str]]:
    """Yield the id and name of every token that the files beside a checkpoint speak of."""
    files = {path.name: path for path in stored.source.sidecars()}
    found: dict[int, str] = {}
    for name in ("vocab.json", "added_tokens.json", "tokenizer.json"):  # the last is the one read
        if name in files:
            content = read_json(files[name])
            found |= _of_tokenizer(content) if name == "tokenizer.json" else _by_id(content)
    if not found:
        configs = [stored.source.config]
        if "generation_config.json" in files:
            configs.append(read_json(files["generation_config.json"]))
        ids: dict[str, object] = {}
        for raw in configs:
            ids |= {name: number for name, number in _ids(raw).items() if number is not None}
        found = _by_id(ids)
    yield from sorted(found.items())


def _of_tokenizer(raw: Mapping[str, Any]) -> dict[int, str]:
    model = raw.get("model")
    found = _by_id(model.get("vocab") if isinstance(model, Mapping) else None)
    added = raw.get("added_tokens")
    for one in added if isinstance(added, list) else ():
        if isinstance(one, Mapping):
            found |= _by_id({str(one.get("content")): one.get("id")})
    return found


def _ids(raw: Mapping[str, Any]) -> dict[str, object]:
    """Return the ids that a configuration gives, by the names of the tokens."""
    tasks, languages = raw.get("task_to_id"), raw.get("lang_to_id")
    return {
        END: raw.get("eos_token_id"),
        "<|startoftranscript|>": raw.get("decoder_start_token_id"),
        "<|notimestamps|>": raw.get("no_timestamps_token_id"),
        "<|startofprev|>": raw.get("prev_sot_token_id"),
        **(languages if isinstance(languages, Mapping) else {}),
        **({f"<|{task}|>": tasks[task] for task in tasks} if isinstance(tasks, Mapping) else {}),
    }


def _by_id(vocabulary: object) -> dict[int, str]:
    """Return names by id, of what should be ids by name, and in a file may be anything."""
    if not isinstance(vocabulary, Mapping):
        return {}
    return {
        number: str(name)
        for name, number in vocabulary.items()
        if isinstance(number, int) and not isinstance(number, bool)
    }
