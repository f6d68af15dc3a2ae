"""Documents side by side in rows of one length, none of which sees another.

Every document's positions begin at 0. From positions that begin anew, and no attention mask,
transformers makes a mask under which a token sees its own document only; provided that the model
keeps no cache (``use_cache=False``, which its ``Trainer`` sees to).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from surgery.errors import UsageError
from surgery.training.examples import IGNORED, Example


class PackedText(Dataset[dict[str, Tensor]]):
    """Rows of ``length`` tokens: ``input_ids``, ``labels`` and ``position_ids``, int64, (length,).

    Documents that fit into a row are never cut, longer ones as :func:`cut` does. The longest are
    placed first, each into the fullest row that has room; then rows, and the documents in
    each, are put back into the order they came in. What stays free is padding: a document of its
    own, of which nothing is learnt.

    A row never asks a document's last token for the next one's first, so the number of labels that
    are not ``IGNORED`` is the number of tokens that are predicted.

    Args:
        examples: Documents, or pieces of them from :func:`cut`.
        length: Tokens a row; at most what the model takes.
        padding: Any token id.

    Attributes:
        length: Tokens a row.
        documents: How many documents and pieces the rows hold.
        targets: How many tokens all rows together teach.
        padded: Which part of all rows is padding.

    Raises:
        UsageError: ``length`` is below two, or no document has a token to predict.
    """

    def __init__(self, examples: Iterable[Example], length: int, *, padding: int = 0) -> None:
        self._pieces = cut(examples, length)
        if not self._pieces:
            raise UsageError(
                "There is nothing to learn in this text.",
                expected="a document of at least two tokens, the second not of a prompt",
            )
        self._rows = _fill([len(piece.tokens) for piece in self._pieces], length)
        self._padding = padding
        self.length = length
        self.documents = len(self._pieces)
        self.targets = sum(label != IGNORED for piece in self._pieces for label in piece.labels)
        tokens = sum(len(piece.tokens) for piece in self._pieces)
        self.padded = 1.0 - tokens / (length * len(self._rows))

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one row."""
        pieces = [self._pieces[each] for each in self._rows[index]]
        free = self.length - sum(len(piece.tokens) for piece in pieces)
        padding = Example([self._padding] * free, [IGNORED] * free)
        row = [*pieces, padding]
        return {
            "input_ids": torch.tensor([token for each in row for token in each.tokens]),
            "labels": torch.tensor([label for each in row for label in each.labels]),
            "position_ids": torch.cat([torch.arange(len(each.tokens)) for each in row]),
        }


def cut(examples: Iterable[Example], length: int) -> list[Example]:
    """Cut documents that are longer than ``length`` into pieces of it.

    A piece begins with the last token of the one before, so that every token but a document's
    first is predicted, once. The first label of each is ``IGNORED``: nothing stands before it.
    A piece that would teach nothing is left out.

    Raises:
        UsageError: ``length`` is below two.
    """
    if length < 2:
        raise UsageError("Rows are too short to predict anything in.", found=length, expected="≥ 2")
    pieces = []
    for example in examples:
        for start in range(0, max(len(example.tokens) - 1, 0), length - 1):
            labels = [IGNORED, *example.labels[start + 1 : start + length]]
            if any(label != IGNORED for label in labels):
                pieces.append(Example(example.tokens[start : start + length], labels))
    return pieces


def collate_text(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stack rows of :class:`PackedText` to ``(rows, length)``, with no attention mask."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def _fill(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Return which of the sizes, by index, share a row: best fit, the largest first."""
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # free tokens to the rows that have so many
    free: list[int] = []  # its keys, sorted
    for index in sorted(range(len(sizes)), key=lambda each: (-sizes[each], each)):
        at = bisect_left(free, sizes[index])
        if at == len(free):
            row, room = len(rows), length
            rows.append([])
        else:
            room = free[at]
            row = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], free[at]
        rows[row].append(index)
        left = room - sizes[index]
        if left not in with_room:
            insort(free, left)
        with_room.setdefault(left, []).append(row)
    return sorted(sorted(row) for row in rows)
