"""How a tokenizer makes tokens of words, as far as leaving some of them out is concerned.

Every kind takes what is fixed by a word of the text from the tokens that it used before, as long as
they and those on the way to them stay:

- **BPE** joins the pair of lowest rank. What it joined stays, so at every step the pair that it
  chose is still there, and no other pair is new.
- **Unigram** takes the path of the highest sum of scores. That path stays, and no path is new.
- **WordPiece** takes the longest piece that fits. That piece stays, and no longer one is new.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from math import inf
from typing import Any, Protocol

from surgery.errors import CheckpointError, UnsupportedModelError

Numbers = Mapping[int, int]
"""New ids by old ones, of the tokens that stay."""

SPACE = "▁"
BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class Kind(Protocol):
    """The ``model`` of a tokenizer.json.

    Attributes:
        title: What it is called.
        tokens: Ids by token.
    """

    title: str
    tokens: Mapping[str, int]

    def always(self) -> set[int]:
        """Return the tokens without which some text could no longer be written."""

    def parts(self, token: str) -> tuple[str, ...]:
        """Return the tokens that the way to a token leads over, the last ones alone."""

    def trimmed(self, numbers: Numbers) -> dict[str, Any]:
        """Return the ``model`` without the tokens that leave."""


def kind_of(model: Mapping[str, Any], *, where: object) -> Kind:
    """Return how a tokenizer makes tokens.

    Args:
        model: The ``model`` of a tokenizer.json.
        where: The file, for messages.

    Raises:
        UnsupportedModelError: It is none of these kinds.
        CheckpointError: It is damaged.
    """
    kinds: dict[object, Callable[[Mapping[str, Any]], Kind]] = {
        "BPE": BytePair,
        "Unigram": Unigram,
        "WordPiece": WordPiece,
    }
    affixes = ("continuing_subword_prefix", "end_of_word_suffix")
    found = model.get("type")
    if found not in kinds or (found == "BPE" and any(model.get(name) for name in affixes)):
        raise UnsupportedModelError(
            "This kind of tokenizer cannot be trimmed",
            where=where,
            found=found if found != "BPE" else f"BPE with {' or '.join(affixes)}",
            expected="BPE, Unigram or WordPiece",
        )
    try:
        return kinds[found](model)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(
            "The tokenizer cannot be read",
            where=where,
            found=f"{type(error).__name__}: {error}",
            hint="use the tokenizer that belongs to these weights",
        ) from error


class BytePair:
    """Pairs of tokens that are joined, in the order of their ranks."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        self._model = model
        self.tokens: Mapping[str, int] = dict(model["vocab"])
        self._merges = [
            tuple(one.split(" ")) if isinstance(one, str) else tuple(one) for one in model["merges"]
        ]
        self._ranks = {pair: rank for rank, pair in enumerate(self._merges)}
        self._ways: dict[str, list[tuple[str, ...]]] = {}
        for one, other in self._merges:
            self._ways.setdefault(one + other, []).append((one, other))
        self.title = "SentencePiece-style BPE" if model.get("byte_fallback") else "BPE"

    def always(self) -> set[int]:
        """See :meth:`Kind.always`."""
        return _letters(self.tokens, self._model, self._model.get("unk_token"))

    def parts(self, token: str) -> tuple[str, ...]:
        """See :meth:`Kind.parts`: the last pair that is joined where a text has the token.

        Nothing outside the token has a say in that: a pair across its border would have been
        joined.
        """
        ways = self._ways.get(token, [])
        if len(ways) < 2:
            return ways[0] if ways else ()
        left, last = list(token), tuple[str, ...]()
        while len(left) > 1:
            rank, at = min(
                (self._ranks.get(pair, inf), at) for at, pair in enumerate(pairwise(left))
            )
            if rank == inf:
                return ()  # no text leads to it
            last = (left[at], left[at + 1])
            left[at : at + 2] = ["".join(last)]
        return last

    def trimmed(self, numbers: Numbers) -> dict[str, Any]:
        """See :meth:`Kind.trimmed`; merges keep their order."""
        vocab = _kept(self.tokens, numbers)
        merges = [
            [one, other]
            for one, other in self._merges
            if one in vocab and other in vocab and one + other in vocab
        ]
        return {**self._model, "vocab": vocab, "merges": merges}


class Unigram:
    """Pieces with a score each."""

    title = "Unigram"

    def __init__(self, model: Mapping[str, Any]) -> None:
        self._model = model
        self._scored: list[tuple[str, float]] = [(str(one[0]), one[1]) for one in model["vocab"]]
        self.tokens: Mapping[str, int] = {one: at for at, (one, _) in enumerate(self._scored)}

    def always(self) -> set[int]:
        """See :meth:`Kind.always`.

        The lowest score stays, too: what an unknown character costs is counted from it.
        """
        unknown = self._model.get("unk_id")
        kept = _letters(self.tokens, self._model, None if unknown is None else self._name(unknown))
        return kept | {min(range(len(self._scored)), key=lambda at: self._scored[at][1])}

    def parts(self, token: str) -> tuple[str, ...]:  # noqa: ARG002 (nothing leads to a piece)
        """See :meth:`Kind.parts`: there are none."""
        return ()

    def trimmed(self, numbers: Numbers) -> dict[str, Any]:
        """See :meth:`Kind.trimmed`."""
        unknown = self._model.get("unk_id")
        return {
            **self._model,
            "vocab": [list(one) for at, one in enumerate(self._scored) if at in numbers],
            "unk_id": None if unknown is None else numbers[unknown],
        }

    def _name(self, number: int) -> str:
        return self._scored[number][0]


class WordPiece:
    """Pieces that begin a word, and others, with a prefix, that go on with it."""

    title = "WordPiece"

    def __init__(self, model: Mapping[str, Any]) -> None:
        self._model = model
        self.tokens: Mapping[str, int] = dict(model["vocab"])
        self._prefix = str(model["continuing_subword_prefix"])
        self._longest = int(model["max_input_chars_per_word"])
        self.unknown = self.tokens[str(model["unk_token"])]

    def always(self) -> set[int]:
        """See :meth:`Kind.always`.

        A piece with a character that is none by itself stays: without it the word is unknown.
        """
        kept = {self.unknown}
        for token, number in self.tokens.items():
            inner = token.startswith(self._prefix) and token != self._prefix
            text = token.removeprefix(self._prefix) if inner else token
            alone = (
                (letter if not at and not inner else self._prefix + letter) in self.tokens
                for at, letter in enumerate(text)
            )
            if len(text) == 1 or not all(alone):
                kept.add(number)
        return kept

    def parts(self, token: str) -> tuple[str, ...]:  # noqa: ARG002 (nothing leads to a piece)
        """See :meth:`Kind.parts`: there are none."""
        return ()

    def trimmed(self, numbers: Numbers) -> dict[str, Any]:
        """See :meth:`Kind.trimmed`."""
        return {**self._model, "vocab": _kept(self.tokens, numbers)}

    def before_unknown(self, word: str) -> list[str]:
        """Return the pieces that were found of an unknown word before nothing fitted.

        Without them shorter ones might be found, and the word be known.
        """
        found: list[str] = []
        begin = 0
        while begin < len(word) <= self._longest:
            prefix = self._prefix if begin else ""
            ends = range(len(word), begin, -1)
            end = next((end for end in ends if prefix + word[begin:end] in self.tokens), None)
            if end is None:
                break
            found.append(prefix + word[begin:end])
            begin = end
        return found


def _kept(tokens: Mapping[str, int], numbers: Numbers) -> dict[str, int]:
    return {token: numbers[number] for token, number in tokens.items() if number in numbers}


def _letters(tokens: Mapping[str, int], model: Mapping[str, Any], unknown: str | None) -> set[int]:
    """Return what any text can be written with: bytes, or else every character that there is.

    With bytes for what has no token, of the characters those of ASCII stay, and the space's mark,
    which no bytes stand for.
    """
    kept = _ids(tokens, {unknown or ""} & tokens.keys())
    if model.get("byte_fallback"):
        plain = (one for one in tokens if one == SPACE or (len(one) == 1 and one.isascii()))
        return kept | _ids(tokens, plain) | _ids(tokens, filter(BYTE.fullmatch, tokens))
    alone = {one for one in tokens if len(one) == 1}
    others = (one for one in tokens if not alone.issuperset(one))
    return kept | _ids(tokens, alone) | (_ids(tokens, others) if "unk_id" in model else set())


def _ids(tokens: Mapping[str, int], some: Iterable[str]) -> set[int]:
    return {tokens[one] for one in some}
