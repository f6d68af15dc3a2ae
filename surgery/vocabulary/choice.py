"""Which tokens stay, and what they are called and numbered from then on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from surgery.errors import CheckpointError
from surgery.vocabulary.tokenizer import Vocabulary

REMOVED = "<|removed {}|>"
"""What stands in the place of a language that left. Its row stays: some tokenizers of Whisper find
a language by counting from the first."""


@dataclass(frozen=True)
class Choice:
    """The tokens that stay.

    Attributes:
        vocabulary: All tokens before.
        kept: Those that stay by their old ids, ascending; rows without a token may be among them.
        renamed: Which of them are called otherwise from now on.
    """

    vocabulary: Vocabulary
    kept: tuple[int, ...]
    renamed: Mapping[int, str] = field(default_factory=dict)

    @cached_property
    def numbers(self) -> dict[int, int]:
        """New ids by old ones."""
        return {old: new for new, old in enumerate(self.kept)}

    @property
    def sha256(self) -> str:
        """What tells this choice from any other."""
        text = repr((self.kept, sorted(self.renamed.items())))
        return hashlib.sha256(text.encode()).hexdigest()


def language_slot(token: str) -> str:
    """Return what stands in the place of a language's token: ``<|removed fr|>``."""
    return REMOVED.format(token.strip("<|>"))


def choice_between(
    before: Vocabulary, after: Vocabulary, rows: tuple[int, int], *, where: object
) -> Choice:
    """Return which tokens of one checkpoint another, made from it, still has.

    Rows without a token, as some tokenizers have them of timestamps, are counted from the end.

    Args:
        before: Tokens of the original.
        after: Tokens of the other.
        rows: How many rows their embeddings have.
        where: What to call the other, for messages.

    Raises:
        CheckpointError: The other has tokens that are none of the original's.
    """
    ids = before.ids
    slots = {language_slot(name): name for name in ids if name.startswith("<|")}
    kept: list[int] = []
    renamed: dict[int, str] = {}
    for new in range(rows[1]):
        name = after.names.get(new)
        old = new + rows[0] - rows[1] if name is None else ids.get(slots.get(name, name), -1)
        if name in slots and name not in ids:
            renamed[old] = str(name)
        if old < 0 or (kept and old <= kept[-1]):
            raise CheckpointError(
                "These are not two forms of one model: their tokens differ",
                where=where,
                found=f"token {new} is {name!r}",
                expected="tokens of the original, in their order",
            )
        kept.append(old)
    return Choice(before, tuple(kept), renamed)


def counted(kept: Iterable[int], reasons: Mapping[str, Iterable[int]]) -> dict[str, int]:
    """Return how many tokens stay for which reason, the first that holds."""
    left, found = set(kept), dict[str, int]()
    for reason, some in reasons.items():
        mine = left.intersection(some)
        left -= mine
        if mine:
            found[reason] = len(mine)
    if left:
        found["on the way to others"] = len(left)
    return found
