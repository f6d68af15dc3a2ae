"""Word error rate counts what a naive edit distance counts, on text made comparable."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import UsageError
from surgery.evaluation.wer import normalise, word_errors


def naive_distance(said: list[str], heard: list[str]) -> int:
    """Levenshtein's distance, by its definition."""
    if not said or not heard:
        return len(said) + len(heard)
    return min(
        naive_distance(said[1:], heard) + 1,
        naive_distance(said, heard[1:]) + 1,
        naive_distance(said[1:], heard[1:]) + (said[0] != heard[0]),
    )


words = st.lists(st.sampled_from(["tree", "house", "river", "stone"]), max_size=5)


@settings(deadline=None)  # the first call imports whisper
@given(st.lists(st.tuples(words, words), min_size=1, max_size=3))
def test_errors_are_the_edit_distance(pairs: list[tuple[list[str], list[str]]]) -> None:
    if not any(said for said, _ in pairs):
        return
    found = word_errors([" ".join(said) for said, _ in pairs], [" ".join(h) for _, h in pairs])
    assert found.errors == sum(naive_distance(said, heard) for said, heard in pairs)
    assert found.words == sum(len(said) for said, _ in pairs)
    assert found.rate == found.errors / found.words


def test_each_kind_of_error_is_counted_as_such() -> None:
    found = word_errors(["the tree stands", "a house", "river"], ["the tree", "a a house", "stone"])
    assert (found.substitutions, found.insertions, found.deletions) == (1, 1, 1)
    assert found.rate == pytest.approx(3 / 6)


@pytest.mark.parametrize(
    "heard", ["three one four", "314", "Three, one, four.", "3 1 4", "31 four"]
)
def test_digits_said_one_by_one_are_one_word_each_however_written(heard: str) -> None:
    found = word_errors(["three one four"], [heard])
    assert (found.errors, found.words) == (0, 3)


def test_one_misheard_digit_of_six_is_one_error_of_six() -> None:
    found = word_errors(["one one zero zero nine two"], ["one zero zero nine two"])
    assert (found.substitutions, found.insertions, found.deletions) == (0, 0, 1)
    assert found.words == 6


def test_a_lone_one_is_the_same_word_as_a_one_among_digits() -> None:
    assert normalise("one") == "1"
    assert normalise("one one") == "1 1"
    assert normalise("2.07 of 1995") == "2.07 of 1 9 9 5"


def test_spelling_case_and_punctuation_do_not_count() -> None:
    assert (
        word_errors(["Mr. Smith's colour, isn't it?"], ["mister smith is color is not it"]).errors
        == 0
    )


def test_other_languages_keep_their_words() -> None:
    assert normalise("One, ZWEI!", "de") == "one zwei"


def test_silence_that_was_heard_as_words_counts_as_insertions() -> None:
    found = word_errors(["", "tree"], ["house", "tree"])
    assert (found.insertions, found.words) == (1, 1)


def test_rates_without_words_are_refused() -> None:
    with pytest.raises(UsageError, match="every reference is empty"):
        word_errors(["", " "], ["a", "b"])
    with pytest.raises(UsageError, match="2 references, 1 hypotheses"):
        word_errors(["a", "b"], ["a"])
