"""From ranked byte strings to the vocabulary and merges of a byte-level BPE.

tiktoken stores only each token's bytes and rank; the pair that a token was merged from is
implied, and recovered by merging its bytes with the tokens that came before it.
"""

from __future__ import annotations

from collections.abc import Mapping

_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS = tuple(byte for byte in range(256) if byte not in _PRINTABLE)
_LETTERS = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(256 + number) for number, byte in enumerate(_OTHERS)
}
"""The byte-level alphabet: printable Latin-1 stands for itself, the rest for U+0100 on."""
_BYTES = {letter: byte for byte, letter in _LETTERS.items()}


def to_unicode(token: bytes) -> str:
    """Spell a token's bytes in the byte-level alphabet (a space is ``Ġ``)."""
    return "".join(_LETTERS[byte] for byte in token)


def to_bytes(token: str) -> bytes | None:
    """Return the bytes of a token spelled in the byte-level alphabet; ``None`` if it is not."""
    found = [_BYTES.get(letter) for letter in token]
    return None if None in found else bytes(byte for byte in found if byte is not None)


def merges(ranks: Mapping[bytes, int]) -> list[tuple[str, str]]:
    """Return the merge that makes each longer token, in rank order.

    A token that no two earlier ones make is unreachable by merging, and has no merge.
    """
    pairs = []
    for token in sorted(ranks, key=lambda token: ranks[token]):
        if len(token) > 1:
            parts = _split(token, ranks)
            if len(parts) == 2:
                pairs.append((to_unicode(parts[0]), to_unicode(parts[1])))
    return pairs


def _split(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Merge a token's bytes, lowest rank first, as far as tokens before it go."""
    limit = ranks[token]
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        best, where = limit, -1
        for i in range(len(parts) - 1):
            rank = ranks.get(parts[i] + parts[i + 1], limit)
            if rank < best:
                best, where = rank, i
        if where < 0:
            break
        parts[where : where + 2] = [parts[where] + parts[where + 1]]
    return parts
