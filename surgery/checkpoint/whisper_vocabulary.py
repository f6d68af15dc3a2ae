"""The vocabularies of openai-whisper, each known by its size: what every token stands for."""

from __future__ import annotations

import base64
import warnings
from functools import lru_cache
from pathlib import Path

from surgery.checkpoint.byte_bpe import to_unicode
from surgery.errors import CheckpointError

END = "<|endoftext|>"


class Vocabulary:
    """Token ids of one model, worked out by openai-whisper's own tokenizer.

    Args:
        size: How many tokens there are.

    Attributes:
        multilingual: Whether it has languages to choose from.
        tokenizer: openai-whisper's own.
        languages: Their codes, in the order of their tokens.
        ranks: Ids of the tokens that stand for text, by their bytes.
        specials: Ids of all others by name, in their order.
        normalizer: The spelling table of the English text normalizer.

    Raises:
        CheckpointError: openai-whisper has none of that size.
    """

    def __init__(self, size: int) -> None:
        # Imported here: it pulls in numba, which nothing else needs.
        import whisper.tokenizer as openai

        self.multilingual = size >= 51865
        languages = size - 51765 - int(self.multilingual)
        if not 1 <= languages <= len(openai.LANGUAGES):
            raise CheckpointError(
                "The vocabulary is none of openai-whisper's.",
                where="dims.n_vocab",
                found=size,
                expected="51864 (English), 51865 or 51866 (multilingual)",
            )
        with warnings.catch_warnings():
            # openai-whisper leaves its vocabulary file to the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            self.tokenizer = openai.get_tokenizer(self.multilingual, num_languages=languages)
        self.languages = list(openai.LANGUAGES)[:languages]
        package = Path(openai.__file__).parent
        asset = "multilingual" if self.multilingual else "gpt2"
        lines = (package / "assets" / f"{asset}.tiktoken").read_bytes().splitlines()
        pairs = (line.split() for line in lines if line)
        self.ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
        self.specials: dict[str, int] = dict(
            sorted(self.tokenizer.special_tokens.items(), key=lambda item: item[1])
        )
        self.normalizer = (package / "normalizers" / "english.json").read_text(encoding="utf-8")

    def suppressed(self) -> list[int]:
        """Tokens never sampled: symbols that are not speech, and task tokens."""
        named = ("translate", "transcribe", "startoftranscript", "startofprev", "startoflm")
        tokens = {self.specials[f"<|{name}|>"] for name in (*named, "nospeech")}
        return sorted(tokens | set(self.tokenizer.non_speech_tokens))

    def names(self) -> dict[int, str]:
        """Return what transformers' tokenizers call every token, by its id."""
        words = {rank: to_unicode(token) for token, rank in self.ranks.items()}
        return words | {number: name for name, number in self.specials.items()}

    def token_bytes(self) -> list[bytes]:
        """Return the bytes of every token that stands for text, in the order of their ids."""
        return sorted(self.ranks, key=lambda token: self.ranks[token])

    def prompt(self) -> list[int]:
        """Return what a decoder is told before it transcribes English without timestamps."""
        language = ("en", "transcribe") if self.multilingual else ()
        named = ("startoftranscript", *language, "notimestamps")
        return [self.specials[f"<|{name}|>"] for name in named]


@lru_cache(maxsize=3)
def vocabulary_of(size: int) -> Vocabulary:
    """Return the vocabulary of a size; reading one takes a moment.

    Raises:
        CheckpointError: openai-whisper has none of that size.
    """
    return Vocabulary(size)
