"""The frequent words of a language, and how often text uses the tokens that they are cut to."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache

from surgery.errors import UsageError
from surgery.vocabulary.tokenizer import Vocabulary

SPELLINGS: Mapping[tuple[bool, bool], float] = {
    (True, False): 0.83,
    (True, True): 0.15,
    (False, False): 0.01,
    (False, True): 0.01,
}
"""How often a word is met with a space before it or not, and with a capital or not; that only
orders tokens where not all of them fit. Lists of words say nothing of either. Of a few such shares
these lose least of what Whisper base writes of English and German speech (of no test)."""

FOLDED: Mapping[str, tuple[str, str]] = {"de": (r"ss", "ß"), "el": (r"σ\b", "ς")}
"""What the lists write otherwise than the language, since they fold the case of all words: there is
no word with ß or a last ς in them. Words with either stay in both spellings."""

OTHER_CODES = {"jw": "jv", "no": "nb", "tl": "fil"}
"""What Whisper and the lists call differently."""


@cache
def frequent_words(language: str) -> dict[str, float]:
    """Return the words of a language, most frequent first, to their share of running words.

    Words with digits are left out: the lists have zeros in the place of all.

    Raises:
        UsageError: The lists are not installed, or have none of this language.
    """
    try:
        import wordfreq
    except ImportError as error:
        raise UsageError(
            "Frequent words come from wordfreq, which is not installed",
            where="--languages",
            hint='pip install "model-surgery[languages]", or give --words 0 and text',
        ) from error
    code = OTHER_CODES.get(language, language)
    have = wordfreq.available_languages("best")
    if code not in have:
        raise UsageError(
            "There is no list of words of this language",
            where="--languages",
            found=language,
            expected=", ".join(sorted(have)),
            hint="give --words 0 and text of the language with --keep-text",
        )
    every: dict[str, float] = {**wordfreq.get_frequency_dict(code, "best")}
    if code in FOLDED:
        old, new = FOLDED[code]
        for word, share in [*every.items()]:
            other = re.sub(old, new, word)
            if other != word:
                every |= {word: share / 2, other: share / 2}
    ordered = sorted(every.items(), key=lambda one: (-one[1], one[0]))
    return {word: share for word, share in ordered if not any(map(str.isdigit, word))}


def counted_words(
    words: Mapping[str, float], most: int | None, coverage: float | None
) -> dict[str, float]:
    """Return the first words: so many, or so many that they are a share of all."""
    if coverage is None:
        return dict(list(words.items())[:most])
    left, taken = coverage * sum(words.values()), dict[str, float]()
    for word, share in words.items():
        if left <= 0:
            break
        taken[word] = share
        left -= share
    return taken


def uses_of_words(vocabulary: Vocabulary, words: Mapping[str, float]) -> dict[int, float]:
    """Return how often running text uses each token, by the shares of its words.

    Every word with and without a space before it, and with and without a capital.
    """
    found: dict[int, float] = {}
    for (space, capital), weight in SPELLINGS.items():
        spelled = [
            (" " if space else "") + (word[:1].upper() + word[1:] if capital else word)
            for word in words
        ]
        for tokens, share in zip(vocabulary.tokens_of(spelled), words.values(), strict=True):
            for token in tokens:
                found[token] = found.get(token, 0.0) + weight * share
    return found


def letterless(vocabulary: Vocabulary, tokens: Iterable[int]) -> set[int]:
    """Return the tokens of digits and signs alone, in ASCII: every language writes them."""
    found = set()
    for token in tokens:
        text = vocabulary.text_of(token)
        if text and text.isascii() and not any(map(_is_letter, text)):
            found.add(token)
    return found


def _is_letter(character: str) -> bool:
    return unicodedata.category(character).startswith("L")
