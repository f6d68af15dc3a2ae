"""What a user can ask of ``trim-vocabulary``, checked and in a form that can be written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from surgery.choices.common import DTYPES, choice
from surgery.choices.option import DTYPE, asked, spelled
from surgery.choices.places import data_name, given_path
from surgery.choices.targets import bytes_in, parameters_in
from surgery.errors import UsageError

WORDS = 20_000
"""Words of each language whose tokens stay, where nobody says how many."""

PLACES = ("keep_text", "keep_speech")


@dataclass(frozen=True)
class TrimOptions:
    """Options of one run.

    Attributes:
        keep_text: Text files whose tokens stay.
        keep_speech: Folders of recordings: a Whisper keeps what it writes of them.
        keep_tokens: A file of tokens that stay: one a line as the tokenizer spells them, or a JSON
            list of these or of ids.
        languages: Codes of the languages that stay: their frequent words' tokens and, of a
            Whisper, their own.
        frequent: How many words of each language; ``None``: :data:`WORDS`, or with ``coverage``
            or a target all there are.
        coverage: So many words of each language that they are this share of running words.
        min_count: How often a token is used at least, in texts and speech together.
        target_size: Bytes of the result, such as ``100MB``: the most used tokens stay that fit.
        target_parameters: The same in parameters, such as ``60M``.
        dtype: Output dtype; ``None`` keeps every tensor's own.

    Raises:
        UsageError: A value is out of range, or nothing says what stays.
    """

    command: ClassVar[str] = "trim-vocabulary"

    keep_text: tuple[str, ...] = asked(
        (),
        "A text file: the tokens that it is cut to stay. Again for more.",
        reads="paths",
        metavar="FILE",
    )
    keep_speech: tuple[str, ...] = asked(
        (),
        "A folder of recordings: the tokens that a Whisper writes of them stay. Again for more.",
        reads="paths",
        metavar="DIR",
    )
    keep_tokens: str | None = asked(
        None,
        "A file of tokens that stay: one a line, or a JSON list of tokens or ids.",
        reads="path",
        metavar="FILE",
    )
    languages: tuple[str, ...] = asked(
        (),
        "Languages that stay: the tokens of their frequent words and, of a Whisper, their own.",
        reads="words",
        metavar="en,de,…",
    )
    frequent: int | None = asked(
        None,
        f"The N most frequent words of each. Default: {WORDS:,}, or all that fit a target.",
        "--words",
        metavar="N",
        least=0,
    )
    coverage: float | None = asked(
        None, "Or so many that they are this share of running words.", reads="fraction"
    )
    min_count: int = asked(1, "A token is used so often at least, or it leaves.", least=1)
    target_size: str | None = asked(
        None, "Keep the most used tokens that fit: 100MB.", metavar="SIZE"
    )
    target_parameters: str | None = asked(None, "The same in parameters: 60M.", metavar="NUMBER")
    dtype: str | None = asked(None, DTYPE, among=DTYPES)

    def __post_init__(self) -> None:
        """Refuse values that are out of range or contradict each other."""
        choice("--dtype", self.dtype, (None, *DTYPES))
        if not self.asks:
            raise UsageError(
                "Nothing says which tokens stay",
                expected="--keep-text, --keep-speech, --languages or --keep-tokens",
            )
        if self.frequent is not None and self.coverage is not None:
            raise UsageError("--words and --coverage both say how many words stay: give one")
        if not self.languages and (self.frequent is not None or self.coverage is not None):
            raise UsageError(
                "--words and --coverage count words of languages", hint="give --languages"
            )
        if self.coverage is not None and not 0 < self.coverage <= 1:
            raise UsageError("--coverage is out of range", found=self.coverage, expected="0 … 1")
        if self.min_count < 1:
            raise UsageError("--min-count must be at least 1", found=self.min_count)
        if self.frequent is not None and self.frequent < 0:
            raise UsageError("--words must be at least 0", found=self.frequent)
        if self.target_size is not None and self.target_parameters is not None:
            raise UsageError("--target-size and --target-parameters say the same: give one")
        if self.target_size is not None:
            bytes_in(self.target_size)
        if self.target_parameters is not None:
            parameters_in(self.target_parameters)

    @property
    def asks(self) -> bool:
        """Whether anything says which tokens stay."""
        given = self.keep_text, self.keep_speech, self.languages, self.keep_tokens
        return any(given)

    @property
    def targeted(self) -> bool:
        """Whether a size of the result is asked for."""
        return self.target_size is not None or self.target_parameters is not None

    @property
    def most_words(self) -> int | None:
        """How many words of each language count at most; ``None``: all there are."""
        if self.frequent is None and self.coverage is None and not self.targeted:
            return WORDS
        return self.frequent

    def plain(self) -> dict[str, Any]:
        """Return the options as JSON values, by the command line's names.

        They travel with the result, so of places only the last two names are kept.
        """
        return {
            **{name: [data_name(one) for one in getattr(self, name)] for name in PLACES},
            "keep_tokens": None if self.keep_tokens is None else data_name(self.keep_tokens),
            "languages": list(self.languages),
            "words": self.most_words if self.languages else None,
            "coverage": self.coverage,
            "min_count": self.min_count,
            "target_size": self.target_size,
            "target_parameters": self.target_parameters,
            "dtype": self.dtype,
        }

    def words(self, *, shown: bool = False) -> list[str]:
        """Return the words that ask for the same; see :class:`surgery.engine.asked.AskedFor`."""
        if not shown:
            return spelled(self)
        some = {name: tuple(map(given_path, getattr(self, name))) for name in PLACES}
        tokens = None if self.keep_tokens is None else given_path(self.keep_tokens)
        return spelled(self, **some, keep_tokens=tokens)
