"""Packed rows teach what the documents alone teach, each token once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import surgery
from surgery.errors import UsageError
from surgery.training.examples import IGNORED, Example, hold_out
from surgery.training.packing import PackedText, collate_text, cut
from tests.models import tiny_model
from tests.runtime.naive import make_case

VOCABULARY = 48
WINDOWED = "mistral"  # its window of 6 is shorter than most documents below


def documents(*lengths: int, prompt: int = 2) -> list[Example]:
    torch.manual_seed(0)
    made = []
    for length in lengths:
        tokens = torch.randint(3, VOCABULARY, (length,)).tolist()
        made.append(Example(tokens, [IGNORED] * prompt + tokens[prompt:]))
    return made


def summed_alone(model: Any, examples: Sequence[Example]) -> tuple[float, int]:
    """Cross-entropy of every document by itself, token by token, and how many tokens count."""
    total, count = 0.0, 0
    for example in examples:
        with torch.no_grad():
            scores = model(torch.tensor([example.tokens])).logits[0].double().log_softmax(-1)
        for at, label in enumerate(example.labels[1:]):
            if label != IGNORED:
                total, count = total - float(scores[at, label]), count + 1
    return total, count


def packed_loss(model: Any, rows: PackedText, **options: Any) -> float:
    batch = collate_text([rows[index] for index in range(len(rows))])
    with torch.no_grad():
        return float(model(**batch, **({"use_cache": False} | options)).loss)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["llama", WINDOWED, "qwen2", "gpt2"])
def test_a_packed_loss_is_the_mean_over_documents_alone(name: str, attention: str) -> None:
    model = tiny_model(name, dtype=torch.float64)
    model.set_attn_implementation(attention)
    examples = documents(11, 3, 9, 20, 4, 13, 3)
    rows = PackedText(examples, 24)
    assert len(rows) < len(examples) and rows.padded > 0

    total, count = summed_alone(model, examples)

    assert rows.targets == count
    # transformers takes the loss itself in float32: 2^-24 relative a term, and some for the mean.
    assert packed_loss(model, rows) == pytest.approx(total / count, rel=1e-6)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["llama", "mistral-window-wide", "gpt2"])
def test_a_pruned_model_sees_no_other_document_either(
    tmp_path: Path, name: str, attention: str
) -> None:
    case = make_case(name, "ragged", tmp_path, dtype=torch.float64)
    model = surgery.load(case.path, dtype=torch.float64, attn_implementation=attention)
    examples = documents(11, 3, 9, 20, 4)
    total, count = summed_alone(model, examples)
    assert packed_loss(model, PackedText(examples, 24)) == pytest.approx(total / count, rel=1e-6)


def test_packing_needs_a_model_that_keeps_no_cache() -> None:
    # Why the module's docstring says so; should this fail one day, it need not.
    model = tiny_model("llama", dtype=torch.float64)
    rows = PackedText(documents(11, 3, 9), 24)
    assert abs(packed_loss(model, rows, use_cache=True) - packed_loss(model, rows)) > 1e-3


LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=20)


@st.composite
def marked(draw: Callable[..., Any]) -> list[Example]:
    """Documents whose tokens are all different, some of them not to be learnt."""
    examples, first = [], 0
    for length in draw(LENGTHS):
        tokens = list(range(first, first + length))
        learnt = draw(st.lists(st.booleans(), min_size=length, max_size=length))
        labels = [t if yes else IGNORED for t, yes in zip(tokens, learnt, strict=True)]
        examples.append(Example(tokens, labels))
        first += length
    return examples


def taught(examples: Sequence[Example]) -> list[int]:
    return [label for each in examples for label in each.labels[1:] if label != IGNORED]


@given(marked(), st.integers(2, 12))
def test_every_token_is_predicted_once_and_from_the_one_before_it(
    examples: list[Example], length: int
) -> None:
    if not taught(examples):
        with pytest.raises(UsageError, match="nothing to learn"):
            PackedText(examples, length)
        return
    rows = PackedText(examples, length)
    found = []
    for index in range(len(rows)):
        row = rows[index]
        assert list(row) == ["input_ids", "labels", "position_ids"]
        assert all(tensor.shape == (length,) for tensor in row.values())
        assert all(tensor.dtype == torch.int64 for tensor in row.values())
        tokens, labels, positions = (row[name].tolist() for name in row)
        for at, label in enumerate(labels):
            if label != IGNORED:
                assert label == tokens[at]
                assert at > 0 and tokens[at - 1] == label - 1
                assert positions[at] == positions[at - 1] + 1
                found.append(label)
        starts = [at for at, position in enumerate(positions) if position == 0]
        for begin, end in zip(starts, [*starts[1:], length], strict=True):
            assert positions[begin:end] == list(range(end - begin))
    assert sorted(found) == taught(examples)
    assert rows.targets == len(found)


@given(marked(), st.integers(2, 12))
def test_only_what_is_longer_than_a_row_is_cut(examples: list[Example], length: int) -> None:
    pieces = cut(examples, length)
    assert all(2 <= len(piece.tokens) <= length for piece in pieces)
    kept = {tuple(piece.tokens) for piece in pieces}
    for example in examples:
        if len(example.tokens) <= length and taught([example]):
            assert tuple(example.tokens) in kept
    assert cut(pieces, length) == pieces


@given(st.lists(st.integers(2, 24), min_size=1, max_size=40))
def test_no_two_rows_would_fit_into_one(lengths: list[int]) -> None:
    rows = PackedText(documents(*lengths, prompt=0), 24, padding=2)
    filled = sorted(int((rows[index]["input_ids"] != 2).sum()) for index in range(len(rows)))
    assert len(filled) == 1 or filled[0] + filled[1] > 24
    assert sum(filled) == sum(lengths)
    assert rows.padded == pytest.approx(1 - sum(lengths) / (24 * len(rows)))


def test_rows_keep_the_order_of_the_text() -> None:
    rows = PackedText([Example([n] * 5, [n] * 5) for n in range(1, 7)], 10)
    assert [rows[index]["input_ids"].unique().tolist() for index in range(3)] == [
        [1, 2],
        [3, 4],
        [5, 6],
    ]


def test_rows_of_one_token_are_refused() -> None:
    with pytest.raises(UsageError, match="too short"):
        PackedText(documents(5), 1)


@given(st.integers(2, 300), st.floats(0.001, 0.999), st.integers(0, 5))
def test_held_out_samples_are_a_share_of_all(count: int, share: float, seed: int) -> None:
    train, held = hold_out(count, share, seed)
    assert sorted([*train, *held]) == list(range(count))
    assert train == sorted(train) and held == sorted(held)
    assert len(train) and len(held)
    assert abs(len(held) - share * count) <= 1
    assert hold_out(count, share, seed) == (train, held)


def test_the_seed_decides_what_is_held_out() -> None:
    assert hold_out(6, 0.0, 0) == ([0, 1, 2, 3, 4, 5], [])
    assert len({tuple(hold_out(40, 0.25, seed)[1]) for seed in range(5)}) == 5
    for count, share in ((1, 0.5), (9, 1.0), (9, -0.1)):
        with pytest.raises(UsageError):
            hold_out(count, share, 0)
