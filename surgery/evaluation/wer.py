"""Word error rate, on text that Whisper's own normaliser has made comparable."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import jiwer

from surgery.errors import UsageError
from surgery.evaluation.transcribe import ENGLISH

_FIGURE = re.compile(r"(?<!\S)(\d{2,}|one)(?!\S)")  # a whole word


@dataclass(frozen=True)
class WordErrors:
    """Edits that turn the references into the hypotheses, counted in words.

    The counts belong to an alignment with the fewest edits; their sum is unique, the division
    into kinds need not be.

    Attributes:
        substitutions: Words heard as another word.
        insertions: Words that were not said.
        deletions: Words that were missed.
        words: Words in the references.
    """

    substitutions: int
    insertions: int
    deletions: int
    words: int

    @property
    def errors(self) -> int:
        """All edits."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Errors a reference word: 0 is perfect; insertions can take it beyond 1."""
        return self.errors / self.words


def word_errors(
    references: Sequence[str], hypotheses: Sequence[str], *, language: str = "en"
) -> WordErrors:
    """Count word errors over all pairs, after :func:`normalise` of both sides.

    Raises:
        UsageError: If the numbers of texts differ, or no reference holds a word.
    """
    every = word_errors_each(references, hypotheses, language=language)
    return WordErrors(
        *(
            sum(getattr(one, kind) for one in every)
            for kind in ("substitutions", "insertions", "deletions", "words")
        )
    )


def word_errors_each(
    references: Sequence[str], hypotheses: Sequence[str], *, language: str = "en"
) -> list[WordErrors]:
    """Count the word errors of each pair; as :func:`word_errors`, whose counts are their sums."""
    if len(references) != len(hypotheses):
        raise UsageError(
            "Each reference needs one hypothesis.",
            found=f"{len(references)} references, {len(hypotheses)} hypotheses",
        )
    said = [normalise(text, language) for text in references]
    if not any(said):
        raise UsageError("A word error rate needs words: every reference is empty.")
    output = jiwer.process_words(said, [normalise(text, language) for text in hypotheses])
    found = []
    for text, alignment in zip(said, output.alignments, strict=True):
        counts = {"substitute": 0, "insert": 0, "delete": 0, "equal": 0}
        for chunk in alignment:
            counts[chunk.type] += max(
                chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx
            )
        found.append(
            WordErrors(counts["substitute"], counts["insert"], counts["delete"], len(text.split()))
        )
    return found


def normalise(text: str, language: str = "en") -> str:
    """Return ``text`` as it is compared: Whisper's normaliser, then one word a digit.

    Whisper's English normaliser writes numbers in figures and joins digits said one after
    another: "three one four" and "314" both become ``314``, one word, and a single misheard
    digit would make a whole telephone number one error of one word. So every figure of two or
    more digits is taken apart again, ``3 1 4``, on both sides. A lone 1, which the normaliser
    spells out, is a figure here too. Rates of text with many numbers are therefore not those
    of papers that leave them joined; text without numbers is not affected, and other
    languages get Whisper's basic normaliser as it is.

    Source: whisper.normalizers (openai-whisper), appendix C of arXiv 2212.04356.
    """
    english = language.lower() in ENGLISH
    normalised = _normaliser(english)(text)
    if english:
        normalised = _FIGURE.sub(
            lambda figure: "1" if figure.group() == "one" else " ".join(figure.group()), normalised
        )
    return " ".join(normalised.split())


@lru_cache(maxsize=2)
def _normaliser(english: bool) -> Callable[[str], str]:
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

    with warnings.catch_warnings():
        # It leaves closing its table of spellings to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        normaliser: Callable[[str], str] = (
            EnglishTextNormalizer() if english else BasicTextNormalizer()
        )
    return normaliser
