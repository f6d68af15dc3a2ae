"""Texts of two runtimes are the same, part at a tie, or differ; and are told as what they are."""

from __future__ import annotations

import pytest

from surgery.checkpoint.resolve import resolve
from surgery.export.reference import Reference
from surgery.export.whisper.spoken import Texts, compared
from tests.engine.spoken import save_listener


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(resolve(str(save_listener(tmp_path_factory.mktemp("spoken") / "source"))))


def test_the_same_texts_are_told_as_the_same(reference: Reference) -> None:
    _, ours = reference.said
    assert len(ours) == 2 and ours[1]
    texts = compared(reference, ours, 0.0)
    assert texts == Texts(2) and texts.told == "the same text of 2 embedded recordings"


def test_texts_that_part_are_told_as_far_as_they_are_the_same(reference: Reference) -> None:
    _, ours = reference.said
    theirs = [ours[0], [*ours[1][:-1], ours[1][-1] + 1]]
    far = compared(reference, theirs, 0.0)
    assert (far.same, far.parted) == (1, 0) and far.differing is not None
    assert "the same text of 1 embedded recording; " in far.told and " became " in far.told
    near = compared(reference, theirs, 1e9)
    assert near == Texts(1, 1) and near.told.endswith("the same of 1 up to a tie of two tokens")
    silent = compared(reference, [[], []], 1e9)
    assert silent.same == 0 and "the same text" not in silent.told
