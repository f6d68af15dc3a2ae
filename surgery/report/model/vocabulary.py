"""Tokens that left a vocabulary, and what text becomes without them: plain dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class VocabularyUse:
    """One thing that uses tokens: a text, speech, or the words of a language.

    Attributes:
        name: What to call it.
        covered: Share of the tokens that it uses that stay.
        before: Tokens that it is cut to; ``None`` for words, which are no text.
        after: Tokens that it is cut to without those that leave.
    """

    name: str
    covered: float
    before: int | None = None
    after: int | None = None


@dataclass(frozen=True)
class VocabularyStep:
    """What keeping so many tokens would save, and cover of what uses them.

    Attributes:
        kept: Tokens, those that stay in any case among them.
        removed: Share of the model's parameters that leaves.
        covered: Share of all uses, every source of the same weight.
    """

    kept: int
    removed: float
    covered: float


@dataclass(frozen=True)
class VocabularyReport:
    """A vocabulary before and after.

    Attributes:
        kind: What its tokenizer is: ``byte-level BPE``.
        before: Tokens before, by the rows of the embedding.
        kept: Those that stay.
        reasons: How many of them for which reason, the first that holds.
        uses: What uses tokens.
        languages: Languages that stay, where the model has any and some leave.
        curve: What other numbers of tokens would save and cover, fewest first.
    """

    kind: str
    before: int
    kept: int
    reasons: dict[str, int]
    uses: list[VocabularyUse] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    curve: list[VocabularyStep] = field(default_factory=list)
