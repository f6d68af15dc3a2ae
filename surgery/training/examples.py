"""What a language model is taught: tokens, and which of them count."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from surgery.errors import UsageError

IGNORED = -100
"""Label of a position that teaches nothing; the value that torch's cross-entropy skips."""


@dataclass(frozen=True)
class Example:
    """One document.

    Attributes:
        tokens: Token ids.
        labels: For every token itself, or ``IGNORED`` where it is given and not to be learnt (a
            prompt). Not shifted: transformers' models do that.
    """

    tokens: list[int]
    labels: list[int]


def hold_out(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Divide samples into those to train on and those to hold out; both sorted.

    The choice is by hashes, so it is the same with every version of every library. Of two or more
    samples neither side is left empty, unless ``share`` is 0.

    Args:
        count: How many samples there are.
        share: Which part to hold out, at least 0 and below 1.
        seed: Chooses another part.

    Raises:
        UsageError: ``share`` is out of range, or something is to be held out of one sample.
    """
    if not 0.0 <= share < 1.0:
        raise UsageError(
            "This share of the data cannot be held out.", found=share, expected="0 to below 1"
        )
    if share == 0.0:
        return list(range(count)), []
    if count < 2:
        raise UsageError(
            "Nothing can be held out of so few samples.",
            found=count,
            expected="two or more",
            hint="Hold out a share of 0, or give more data.",
        )
    most = min(max(round(share * count), 1), count - 1)
    drawn = sorted(range(count), key=lambda index: sha256(f"{seed} {index}".encode()).digest())
    return sorted(drawn[most:]), sorted(drawn[:most])
