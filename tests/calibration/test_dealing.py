"""Rows are dealt so that what prices a cut had no part in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.calibration.data import CalibrationData
from surgery.calibration.dealing import CHARACTERS, FEW, deal, fingerprint_in_order
from surgery.evaluation.audio import SAMPLE_RATE, Utterance
from surgery.evaluation.rows import Document


def text(*documents: Document) -> CalibrationData:
    return CalibrationData("stories", "text", documents=documents)


def parts(data: CalibrationData) -> list[tuple[Document, ...]]:
    dealt = deal(data)
    held_out = () if dealt.held_out is None else dealt.held_out.documents
    return [dealt.fit.documents, dealt.trial.documents, held_out]


@given(st.integers(FEW, 300))
@settings(deadline=None)
def test_many_documents_go_each_to_one_part(count: int) -> None:
    documents = tuple(Document(f"{number}") for number in range(count))
    fit, trial, held_out = parts(text(*documents))

    assert sorted([*fit, *trial, *held_out], key=lambda each: int(each.text)) == list(documents)
    assert len(trial) == len(held_out) == round(count / 5)
    assert [fit, trial, held_out] == parts(text(*documents))  # the same every time
    places = [int(each.text) for each in held_out]
    gaps = np.diff([-1, *places])  # spread over all of it
    assert gaps.max() <= gaps.min() + 1 and places[-1] == count - 1


@given(st.text(alphabet="ab \n.", min_size=1, max_size=4000).filter(lambda t: t.strip() != ""))
@settings(deadline=None)
def test_a_single_text_is_cut_and_nothing_of_it_is_lost(words: str) -> None:
    fit, trial, held_out = parts(text(Document(words)))

    # With two pieces cuts are tried on what was fitted to; with one nothing is held out.
    rows = {id(each): each for each in (*fit, *trial, *held_out)}.values()
    assert sorted(map(len, (each.text for each in rows))) == sorted(
        len(each.text) for each in rows if each.text in words
    )
    assert sum(len(each.text) for each in rows) == len(words)
    assert all(len(each.text) >= CHARACTERS[0] // 2 for each in rows) or len(rows) == 1


def test_texts_are_cut_at_the_ends_of_paragraphs() -> None:
    paragraphs = [f"{number} " + "x" * 700 for number in range(30)]
    fit, trial, held_out = parts(text(Document("\n\n".join(paragraphs))))

    assert all(each.text[0].isdigit() for each in (*fit, *trial, *held_out))


def test_conversations_and_prompts_stay_whole() -> None:
    talk = Document("hello\n" * 2000, messages=(("user", "hello\n" * 2000),))
    asked = Document("why? because " * 1000, prompt=4)
    fit, trial, held_out = parts(text(talk, asked, talk))

    assert {*fit, *trial, *held_out} == {talk, asked}


@pytest.mark.parametrize(("count", "sizes"), [(1, (1, 0)), (2, (1, 1)), (3, (1, 1))])
def test_few_rows_are_dealt_as_far_as_they_go(count: int, sizes: tuple[int, int]) -> None:
    dealt = deal(text(*(Document(f"{number}") for number in range(count))))

    assert len(dealt.fit) == sizes[0]
    assert (0 if dealt.held_out is None else len(dealt.held_out)) == sizes[1]
    assert (dealt.trial is dealt.fit) == (count < 3)


def test_long_recordings_are_cut_where_there_are_few(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 61 * SAMPLE_RATE).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    whole = Utterance(tmp_path / "long.wav")
    dealt = deal(CalibrationData("speech", "audio", recordings=(whole,)))

    assert dealt.held_out is not None
    pieces = [*dealt.fit.recordings, *dealt.trial.recordings, *dealt.held_out.recordings]
    assert len(pieces) == 5 and all(each.words is None for each in pieces)
    in_order = sorted(pieces, key=lambda each: each.part)
    assert np.array_equal(np.concatenate([each.audio() for each in in_order]), whole.audio())
    assert sum(each.seconds() for each in pieces) == pytest.approx(61)


def test_short_recordings_stay_whole(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", np.zeros(SAMPLE_RATE * 9), SAMPLE_RATE)
    short = Utterance(tmp_path / "short.wav")
    dealt = deal(CalibrationData("speech", "audio", recordings=(short, short)))

    assert dealt.fit.recordings == (short,)
    assert dealt.held_out is not None and dealt.held_out.recordings == (short,)


def test_recordings_whose_words_are_known_stay_whole(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(SAMPLE_RATE * 61), SAMPLE_RATE)
    said = Utterance(tmp_path / "long.wav", "many words")

    assert deal(CalibrationData("speech", "audio", recordings=(said,))).fit.recordings == (said,)


def test_the_digest_of_rows_knows_their_order() -> None:
    one, other = (text(*(Document(word) for word in words)) for words in ("ab", "ba"))

    assert fingerprint_in_order(one) == fingerprint_in_order(text(Document("a"), Document("b")))
    assert fingerprint_in_order(one) != fingerprint_in_order(other)
    assert fingerprint_in_order(one) != fingerprint_in_order(text(Document("ab")))
