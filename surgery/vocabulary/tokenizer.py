"""A tokenizer.json without the tokens that nobody needs: what must stay, and the file after that.

Ids are dense again and in their old order. Merges whose result, or half, is gone go; the rest
keep their order, so that text whose tokens all stay is tokenised as before.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from surgery.errors import CheckpointError
from surgery.vocabulary.kinds import Numbers, WordPiece, kind_of


class Vocabulary:
    """The tokens of a tokenizer.json.

    Args:
        raw: The parsed file.
        where: Its name, for messages.

    Attributes:
        raw: The parsed file.
        names: Every token by its id; added ones over those of the model.
        added: Ids of the special and other added tokens.
        always: Ids that stay in any case: those, what any text can be written with, and the token
            of no text, by which CTranslate2 tells a Whisper of many languages.

    Raises:
        UnsupportedModelError: It is of a kind that cannot be trimmed.
        CheckpointError: It is damaged.
    """

    def __init__(self, raw: Mapping[str, Any], *, where: object) -> None:
        self.raw, self._where = raw, where
        model = raw.get("model")
        if not isinstance(model, Mapping):
            raise self._damaged("no model")
        self.kind = kind_of(model, where=where)
        self._tokenizer = self._built(raw)
        self.names = {number: token for token, number in self.kind.tokens.items()}
        added = {int(one["id"]): str(one["content"]) for one in raw.get("added_tokens") or ()}
        self.names |= added
        self.added = frozenset(added)
        empty = {number for token, number in self.kind.tokens.items() if not token}
        self.always = frozenset(self.closed(self.kind.always() | self.added | empty))

    @cached_property
    def ids(self) -> dict[str, int]:
        """Ids by token, the other way round than ``names``."""
        return {token: number for number, token in self.names.items()}

    @property
    def title(self) -> str:
        """What the kind of tokenizer is called."""
        before = self.raw.get("pre_tokenizer") or {}
        steps = before.get("pretokenizers", [before])
        bytes_ = any(one.get("type") == "ByteLevel" for one in steps)
        return f"byte-level {self.kind.title}" if bytes_ else self.kind.title

    def closed(self, ids: Iterable[int]) -> set[int]:
        """Return these tokens and all that the ways to them lead over."""
        found: set[int] = set()
        left = list(ids)
        while left:
            number = left.pop()
            if number not in found:
                found.add(number)
                left += self._parts(number)
        return found

    def worth(self, uses: Mapping[int, float]) -> dict[int, float]:
        """Return how often each token is used, or passed on the way to one that is.

        So what a way leads over is never worth less than what it leads to.
        """
        found: Counter[int] = Counter()
        for number, used in uses.items():
            for each in self.closed([number]):
                found[each] += used  # type: ignore[assignment]  # a share of a text
        return dict(found)

    def tokens_of(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the tokens of texts, without special ones around them."""
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [one.ids for one in found]

    def text_of(self, number: int) -> str:
        """Return the text that a token stands for by itself."""
        text: str = self._tokenizer.decode([number], skip_special_tokens=False)
        return text

    def uses(self, texts: Iterable[str]) -> Counter[int]:
        """Return how often texts use each token.

        What was found of a word before it became unknown counts as used.
        """
        texts = list(texts)
        found = Counter(number for one in self.tokens_of(texts) for number in one)
        kind = self.kind
        if isinstance(kind, WordPiece) and found[kind.unknown]:
            for word in self._words(texts):
                pieces = kind.before_unknown(word)
                if len("".join(pieces)) < len(word):
                    found.update(kind.tokens[piece] for piece in pieces)
        return found

    def trimmed(self, numbers: Numbers, renamed: Mapping[int, str]) -> dict[str, Any]:
        """Return the file without the tokens that leave.

        Args:
            numbers: New ids by old ones; of all tokens that stay, what their ways lead over too.
            renamed: Tokens that are called otherwise from now on, by their old ids.

        Raises:
            CheckpointError: The library refuses the result.
        """
        made = copy.deepcopy(dict(self.raw))
        made["model"] = self.kind.trimmed(numbers)
        vocab = made["model"]["vocab"]
        if isinstance(vocab, dict):
            for number, name in renamed.items():
                old = self.names[number]
                if vocab.get(old) == numbers[number]:
                    vocab[name] = vocab.pop(old)
        made["added_tokens"] = [
            {
                **one,
                "id": numbers[one["id"]],
                "content": renamed.get(one["id"], one["content"]),
            }
            for one in self.raw.get("added_tokens") or ()
            if one["id"] in numbers
        ]
        padding = made.get("padding")
        try:
            if isinstance(padding, dict):
                padding["pad_id"] = numbers[padding["pad_id"]]
            _renumber_processor(made.get("post_processor"), numbers)
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(f"{error!r} in padding or post_processor") from error
        self._built(made)
        return made

    def _parts(self, number: int) -> list[int]:
        tokens = self.kind.tokens
        return [tokens[part] for part in self.kind.parts(self.names.get(number, ""))]

    def _words(self, texts: Iterable[str]) -> Iterable[str]:
        """Yield every word that is cut to pieces, once a text."""
        normalizer, splitter = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        for text in texts:
            whole = text if normalizer is None else normalizer.normalize_str(text)
            split = [(whole, None)] if splitter is None else splitter.pre_tokenize_str(whole)
            yield from {word for word, _ in split}

    def _built(self, raw: Mapping[str, Any]) -> Tokenizer:
        try:
            built = Tokenizer.from_str(json.dumps(raw))
        except Exception as error:  # tokenizers raises nothing more special
            raise self._damaged(f"{type(error).__name__}: {error}") from error
        built.no_truncation()
        built.no_padding()
        return built

    def _damaged(self, found: object) -> CheckpointError:
        return CheckpointError(
            "The tokenizer cannot be read",
            where=self._where,
            found=found,
            hint="use the tokenizer that belongs to these weights",
        )


def _renumber_processor(processor: Any, numbers: Numbers) -> None:
    """Put new ids into what sets special tokens around a text."""
    if not isinstance(processor, dict):
        return
    for one in processor.get("processors") or ():
        _renumber_processor(one, numbers)
    for special in (processor.get("special_tokens") or {}).values():
        special["ids"] = [numbers[number] for number in special["ids"]]
    for name in ("sep", "cls"):  # of BERT's and RoBERTa's own
        if isinstance(processor.get(name), list):
            token, number = processor[name]
            processor[name] = [token, numbers[number]]
