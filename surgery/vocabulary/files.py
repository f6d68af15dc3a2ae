"""The small files beside a tokenizer.json that say the same again: rewritten, or removed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from surgery.checkpoint.directory import read_json
from surgery.errors import CheckpointError
from surgery.vocabulary.identifiers import renumbered
from surgery.vocabulary.kinds import Numbers
from surgery.vocabulary.tokenizer import Vocabulary

TOKENIZER = "tokenizer.json"
TABLES = ("vocab.json", "added_tokens.json")
CONFIGURATIONS = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "processor_config.json",
)
ADDED = "added_tokens_decoder"
OTHER_FORMS = (
    "tokenizer.model*",
    "spiece.model",
    "sentencepiece*.model",
    "*.tiktoken",
    "tekken.json",
    "vocab.bpe",
)
"""Vocabularies in forms that are not written here: loaders read tokenizer.json where they lack."""


def rewrite_files(
    directory: Path,
    vocabulary: Vocabulary,
    numbers: Numbers,
    renamed: Mapping[int, str],
    *,
    where: object,
) -> list[str]:
    """Rewrite every file of a directory that speaks of tokens.

    Args:
        directory: Copies of the files beside the weights; changed in place.
        vocabulary: The tokens before.
        numbers: New ids by old ones, of the tokens that stay.
        renamed: Tokens that are called otherwise from now on, by their old ids.
        where: What to call the directory in a message.

    Returns:
        Names of files that were removed.

    Raises:
        CheckpointError: A file contradicts the tokenizer, or cannot be read.
    """
    made = vocabulary.trimmed(numbers, renamed)
    _write(directory / TOKENIZER, made)
    names = {vocabulary.names[number]: name for number, name in renamed.items()}
    for name in TABLES:
        path = directory / name
        if path.is_file():
            table = _checked(read_json(path), vocabulary, f"{where}/{name}")
            _write(
                path,
                {names.get(one, one): numbers[at] for one, at in table.items() if at in numbers},
            )
    _rewrite_lines(directory, vocabulary, numbers, names, made)
    for name in CONFIGURATIONS:
        path = directory / name
        if path.is_file():
            raw = read_json(path)
            told = _with_new_names(raw, names)
            added = told.pop(ADDED, None)
            new = renumbered(told, numbers, gone=frozenset(names), where=f"{where}/{name}")
            if isinstance(added, dict):
                kept = {int(number): one for number, one in added.items()}
                new[ADDED] = {str(numbers[at]): kept[at] for at in sorted(kept) if at in numbers}
            if new != raw:
                _write(path, new, indent=2)
    gone = [
        path
        for path in sorted(directory.iterdir())
        if any(fnmatchcase(path.name, form) for form in OTHER_FORMS)
    ]
    for path in gone:
        path.unlink()
    return [path.name for path in gone]


def _rewrite_lines(
    directory: Path,
    vocabulary: Vocabulary,
    numbers: Numbers,
    names: Mapping[str, str],
    made: Mapping[str, Any],
) -> None:
    """Rewrite merges.txt and vocab.txt, which have a merge or a token a line."""
    merges, words = directory / "merges.txt", directory / "vocab.txt"
    if merges.is_file():
        head = merges.read_text(encoding="utf-8").partition("\n")[0]
        lines = [head] if head.startswith("#version") else []
        lines += [" ".join(pair) for pair in made["model"].get("merges", ())]
        merges.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    if words.is_file():
        lines = words.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        _checked({one: at for at, one in enumerate(lines)}, vocabulary, words.name)
        kept = [names.get(one, one) for at, one in enumerate(lines) if at in numbers]
        words.write_text("\n".join(kept) + "\n", encoding="utf-8", newline="\n")


def _with_new_names(value: Any, names: Mapping[str, str]) -> Any:
    """Return a value with every token in it called as it is now; keys of tables stay."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, list):
        return [_with_new_names(one, names) for one in value]
    if isinstance(value, dict):
        return {key: _with_new_names(one, names) for key, one in value.items()}
    return value


def _checked(table: dict[str, Any], vocabulary: Vocabulary, where: str) -> dict[str, int]:
    """Require that a table of tokens says what the tokenizer says.

    Raises:
        CheckpointError: It does not.
    """
    for token, number in table.items():
        if vocabulary.names.get(number) != token:
            raise CheckpointError(
                f"The file and {TOKENIZER} say different things of a token",
                where=where,
                found=f"{token!r} is {number}",
                expected=f"{number} is {vocabulary.names.get(number)!r}",
                hint="remove the one that is stale",
            )
    return table


def _write(path: Path, value: Any, indent: int | None = None) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
