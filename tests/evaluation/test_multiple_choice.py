"""Questions with choices: log-likelihoods against a plain float64 sum, answers, bad rows."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from surgery.errors import SurgeryError, UsageError
from surgery.evaluation.multiple_choice import ChoiceRun, compare_choices
from surgery.evaluation.questions import Question, holds_questions, read_questions
from tests.models import tiny_model

ASKED = [
    Question("what is the sky", ("blue", "made of the finest old cheese"), 0),
    Question("two and two", ("three", "four", "five and a half"), 1),
    Question("say", ("a", "b"), 0),
]


class Letters:
    """A tokenizer of bytes below 48, with a beginning-of-text token."""

    def __call__(self, text: str, verbose: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1, *(3 + ord(letter) % 45 for letter in text)]}


def naive(model: Any, asked: Question, choice: str) -> float:
    """The sum of log p(token | what is before it), in float64, one row without padding."""
    words = Letters()
    ids = words(f"{asked.prompt} {choice}")["input_ids"]
    first = len(words(asked.prompt)["input_ids"])
    with torch.no_grad():
        logits = model.double()(torch.tensor([ids])).logits[0].numpy()
    total = 0.0
    for at in range(first, len(ids)):
        row = logits[at - 1]
        total += row[ids[at]] - np.log(np.exp(row - row.max()).sum()) - row.max()
    return float(total)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_likelihoods_are_those_of_a_plain_sum(family: str) -> None:
    model = tiny_model(family).eval()
    expected = [[naive(copy.deepcopy(model), one, c) for c in one.choices] for one in ASKED]
    done: list[float] = []
    runs, tokens = compare_choices([model, model], Letters(), ASKED, warm_up=True, told=done.append)
    for run in runs:
        for scores, wanted in zip(run.scores, expected, strict=True):
            np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-4)
    assert tokens == [
        len(one.prompt) + 1 + sum(len(f" {choice}") for choice in one.choices) for one in ASKED
    ]
    assert done[-1] == len(ASKED)


def test_of_a_long_question_the_end_is_read_and_a_long_choice_refused() -> None:
    model = tiny_model("gpt2").eval()
    most = model.config.max_position_embeddings
    long = Question("w" * 3 * most, ("yes", "no"), 0)
    runs, _ = compare_choices([model], Letters(), [long])
    ids = Letters()(f"{long.prompt} yes")["input_ids"][-most:]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    wanted = sum(float(logits[at - 1, ids[at]]) for at in range(most - len(" yes"), most))
    assert runs[0].scores[0][0] == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(UsageError, match="longer than a model can see"):
        compare_choices([model], Letters(), [Question("a", ("b" * most, "c"), 0, "here")])


def test_the_answer_is_the_likeliest_or_the_likeliest_a_character() -> None:
    asked = [Question("q", ("ab", "abcdefgh"), 1)]
    run = ChoiceRun([np.array([-4.0, -8.0])], [])
    assert run.correct(asked, normalised=False) == [0.0]
    assert run.correct(asked, normalised=True) == [1.0]
    tied = ChoiceRun([np.array([-4.0, -16.0])], [])
    assert tied.correct(asked, normalised=True) == [0.5]
    broken = ChoiceRun([np.array([np.nan, np.nan])], [])
    assert broken.correct(asked, normalised=True) == [0.0]


def rows(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "asked.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


GOOD = json.dumps({"question": "q", "choices": ["a", "b"], "answer": 1, "id": 3})


def test_questions_are_known_by_their_first_row(tmp_path: Path) -> None:
    file = rows(tmp_path, "", GOOD, GOOD, GOOD)
    assert holds_questions(file)
    found = read_questions(file, limit=2)
    assert len(found) == 2
    assert found.questions[0] == Question("q", ("a", "b"), 1)
    assert list(found.fingerprints()) == ["question 1", "question 2"]
    assert not holds_questions(rows(tmp_path, '{"text": "a"}'))
    assert not holds_questions(rows(tmp_path, ""))
    assert not holds_questions(tmp_path)


@pytest.mark.parametrize(
    "bad",
    [
        {"question": "q", "choices": ["a"], "answer": 0},
        {"question": "q", "choices": ["a", "b"], "answer": 2},
        {"question": "q", "choices": ["a", "b"], "answer": -1},
        {"question": "q", "choices": ["a", "b"], "answer": True},
        {"question": "q", "choices": ["a", " "], "answer": 0},
        {"question": "q", "choices": ["a", "b"], "answer": "A"},
        {"question": 3, "choices": ["a", "b"], "answer": 0},
        ["q"],
    ],
)
def test_a_row_that_is_no_question_is_named(tmp_path: Path, bad: Any) -> None:
    with pytest.raises(SurgeryError, match="no question with choices") as caught:
        read_questions(rows(tmp_path, GOOD, json.dumps(bad)))
    assert "line 2" in str(caught.value)
