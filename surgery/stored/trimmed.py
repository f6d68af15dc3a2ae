"""A checkpoint read as if it had never had some of its tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgery.architectures.vocabulary import ROWS
from surgery.checkpoint.disk import target_errors
from surgery.checkpoint.writer import tensor_bytes
from surgery.stored.derived import DerivedSource
from surgery.stored.stored import Stored
from surgery.stored.tokens import Tokens, read_tokens
from surgery.vocabulary.choice import Choice, choice_between
from surgery.vocabulary.files import TOKENIZER, rewrite_files
from surgery.vocabulary.identifiers import renumbered
from surgery.vocabulary.tokenizer import Vocabulary

FORMS = "{names} went: loaders read tokenizer.json where there is none, and it would say what was."


class TrimmedSource(DerivedSource):
    """The rows of tokens that stay, bit for bit, with every id numbered anew.

    Args:
        stored: The whole checkpoint; not closed with this.
        tokens: Its tokens.
        choice: Those that stay.

    Attributes:
        notes: What became of files that cannot be rewritten, once they were written.

    Raises:
        CheckpointError: Its configuration names tokens in a way that nothing here knows.
    """

    def __init__(self, stored: Stored, tokens: Tokens, choice: Choice) -> None:
        whole = stored.source
        self._choice, self._by_token = choice, frozenset(tokens.tensors)
        self._rows = torch.tensor(choice.kept, dtype=torch.long)
        self._last: tuple[str, Tensor] | None = None
        self.notes: list[str] = []
        where = f"{whole.name}/config.json"
        config = renumbered(tokens.config, choice.numbers, where=where)
        config[ROWS] = len(choice.kept)
        infos = {}
        for name, info in whole.infos.items():
            if name in self._by_token:
                size = info.nbytes // tokens.rows * len(choice.kept)
                info = replace(info, shape=(len(choice.kept), *info.shape[1:]), nbytes=size)
            infos[name] = info
        super().__init__(whole, config, infos)

    def tensor(self, name: str) -> Tensor:
        """See :meth:`TensorSource.tensor`; rows of tokens are gathered, the last tensor kept."""
        if name not in self._by_token:
            return super().tensor(name)
        if self._last is None or self._last[0] != name:
            self._last = name, super().tensor(name).index_select(0, self._rows)
        return self._last[1]

    def raw(self, name: str) -> memoryview:
        """See :meth:`TensorSource.raw`."""
        return tensor_bytes(self.tensor(name)) if name in self._by_token else super().raw(name)

    def release(self, name: str) -> None:
        """See :meth:`TensorSource.release`."""
        self._last = None
        super().release(name)

    def identity(self) -> dict[str, Any]:
        """See :meth:`TensorSource.identity`."""
        return {**self.whole.identity(), "tokens": self._choice.sha256}

    def write_sidecars(self, directory: Path) -> list[str]:
        """See :meth:`TensorSource.write_sidecars`; every file that names tokens follows."""
        written = self.whole.write_sidecars(directory)
        choice = self._choice
        with target_errors(directory):
            gone = rewrite_files(
                directory, choice.vocabulary, choice.numbers, choice.renamed, where=self.name
            )
        self.notes = [FORMS.format(names=" and ".join(gone))] if gone else []
        return sorted({TOKENIZER, *written} - {*gone})


def trimmed_like(old: Stored, new: Stored) -> tuple[TrimmedSource, Choice, Vocabulary] | None:
    """Return a checkpoint without the tokens that another, made from it, lacks; ``None``: none.

    With it which tokens these are, and those of the other.

    Raises:
        CheckpointError: The other has tokens that are none of the original's.
    """
    rows = [int(getattr(each.config, ROWS, 0)) for each in (old, new)]
    if rows[0] == rows[1]:
        return None
    before, after = read_tokens(old), read_tokens(new)
    choice = choice_between(
        before.vocabulary, after.vocabulary, (before.rows, after.rows), where=new.source.name
    )
    return TrimmedSource(old, before, choice), choice, after.vocabulary
