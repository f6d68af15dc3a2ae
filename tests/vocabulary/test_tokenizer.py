"""Tokens that a text uses stay, with their pieces; any other text can still be written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from surgery.errors import CheckpointError, UnsupportedModelError
from surgery.vocabulary.tokenizer import Vocabulary
from tests.vocabulary.tokenizers_of import KINDS, LINES, SPECIALS, raw_tokenizer


@cache
def vocabulary_of(kind: str) -> Vocabulary:
    return Vocabulary(raw_tokenizer(kind), where=kind)


def trimmed_for(before: Vocabulary, texts: Iterable[str]) -> tuple[Vocabulary, dict[int, int]]:
    kept = before.always | before.closed(before.uses(texts))
    numbers = {old: new for new, old in enumerate(sorted(kept))}
    return Vocabulary(before.trimmed(numbers, {}), where="trimmed"), numbers


WORDS = sorted({word for line in LINES for word in line.split()})
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(LINES).map(lambda line: line[:200]),
        st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join),
        st.text(max_size=12),
    ),
    max_size=6,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(kept=TEXTS, others=TEXTS)
def test_kept_text_is_cut_to_the_same_pieces_and_any_other_can_be_written(
    kind: str, kept: list[str], others: list[str]
) -> None:
    before = vocabulary_of(kind)
    after, numbers = trimmed_for(before, kept)
    assert after.tokens_of(kept) == [
        [numbers[one] for one in row] for row in before.tokens_of(kept)
    ]
    was, now = (Tokenizer.from_str(json.dumps(each.raw)) for each in (before, after))
    for text in others:
        old, new = (each.encode(text, add_special_tokens=False) for each in (was, now))
        unknown = [row.tokens.count("<unk>") for row in (old, new)]
        assert unknown[1] <= unknown[0] or kind == "wordpiece"
        if kind == "byte-level":
            assert now.decode(new.ids) == text == was.decode(old.ids)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_dense_in_their_old_order_and_what_leaves_is_gone(kind: str) -> None:
    before = vocabulary_of(kind)
    after, numbers = trimmed_for(before, ["a word or two"])
    assert sorted(after.names) == [*range(len(numbers))]
    assert [after.names[new] for new in sorted(after.names)] == [
        before.names[old] for old in sorted(numbers)
    ]
    assert len(after.names) < len(before.names)
    merges = after.raw["model"].get("merges", [])
    places = {tuple(one): at for at, one in enumerate(before.raw["model"].get("merges", []))}
    ranks = [places[tuple(one)] for one in merges]
    assert ranks == sorted(ranks)


def test_a_way_to_a_token_stays_where_several_merges_make_it() -> None:
    # "abc" can be (a, bc) or (ab, c); the ranks say that a text gets there over bc
    raw = raw_tokenizer("byte-fallback")
    vocab: dict[str, int] = {"<unk>": 0, "a": 1, "b": 2, "c": 3, "bc": 4, "ab": 5, "abc": 6}
    merges = [["b", "c"], ["a", "b"], ["ab", "c"], ["a", "bc"]]
    raw |= {"model": {**raw["model"], "vocab": vocab, "merges": merges}, "normalizer": None}
    raw["added_tokens"] = []
    before = Vocabulary(raw, where="made up")
    assert before.closed([6]) == {6, 4, 3, 2, 1}
    after, numbers = trimmed_for(before, ["abc"])
    assert after.tokens_of(["abc"]) == [[numbers[6]]]
    assert "ab" not in after.kind.tokens


def test_an_unknown_word_stays_unknown() -> None:
    raw = raw_tokenizer("wordpiece")
    pieces = ["<unk>", "a", "ab", "##b", "##c", "##bX", "##cX"]
    raw["model"] = {**raw["model"], "vocab": {one: at for at, one in enumerate(pieces)}}
    raw |= {"added_tokens": [], "normalizer": None}
    before = Vocabulary(raw, where="made up")
    assert before.tokens_of(["abX"]) == [[0]]  # ab fits, and then nothing
    after, _ = trimmed_for(before, ["abX"])
    assert after.tokens_of(["abX"]) == [[0]]
    assert "ab" in after.kind.tokens


def test_what_unknown_characters_cost_stays() -> None:
    before = vocabulary_of("unigram")
    scores = [score for _, score in before.raw["model"]["vocab"]]
    after, _ = trimmed_for(before, [])
    assert min(score for _, score in after.raw["model"]["vocab"]) == min(scores)


def test_what_sets_special_tokens_around_a_text_is_numbered_anew() -> None:
    raw: dict[str, Any] = raw_tokenizer("byte-level")
    # in front of the vocabulary no id moves: here the special tokens are the last
    size = len(raw["model"]["vocab"])
    raw["added_tokens"] += [{**raw["added_tokens"][0], "id": size, "content": "<end>"}]
    piece = {"SpecialToken": {"id": "<end>", "type_id": 0}}
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    raw["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [sequence, piece],
        "pair": [sequence, piece],
        "special_tokens": {"<end>": {"id": "<end>", "ids": [size], "tokens": ["<end>"]}},
    }
    raw["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": size,
        "pad_type_id": 0,
        "pad_token": "<end>",
    }
    before = Vocabulary(raw, where="made up")
    after, numbers = trimmed_for(before, LINES[:1])
    made = Tokenizer.from_str(json.dumps(after.raw))
    assert made.encode("x").ids[-1] == numbers[size] == len(numbers) - 1
    assert after.raw["padding"]["pad_id"] == numbers[size]
    assert {one["content"] for one in after.raw["added_tokens"]} == {*SPECIALS, "<end>"}


def test_what_leads_to_a_token_is_worth_no_less() -> None:
    before = vocabulary_of("byte-level")
    worth = before.worth(before.uses(LINES))
    for number in worth:
        assert all(worth[one] >= worth[number] for one in before.closed([number]))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"type": "WordLevel"}, UnsupportedModelError),
        ({"end_of_word_suffix": "</w>"}, UnsupportedModelError),
        ({"vocab": None}, CheckpointError),
        ({"merges": [["no", "such"]]}, CheckpointError),
    ],
)
def test_other_kinds_and_damaged_files_are_refused(
    change: dict[str, Any], error: type[Exception]
) -> None:
    raw = raw_tokenizer("byte-level")
    with pytest.raises(error, match="where: x"):
        Vocabulary({**raw, "model": {**raw["model"], **change}}, where="x")
