"""Questions with choices, one of which is right: JSONL, a question a line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from surgery.choices.places import data_name
from surgery.errors import SurgeryError
from surgery.evaluation.fingerprints import text_fingerprints
from surgery.evaluation.kinds import Kind
from surgery.evaluation.rows import json_lines, shortened

FORM = '{"question": TEXT, "choices": [TEXT, TEXT, …], "answer": NUMBER}, the first choice being 0'


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        question: What is asked, or begun.
        choices: At least two, and none is empty.
        answer: Which of them is right, from 0.
        where: The file and the line it is from.
    """

    question: str
    choices: tuple[str, ...]
    answer: int
    where: str = field(default="", compare=False)

    @property
    def prompt(self) -> str:
        """What stands before every choice, as lm-eval's ARC and PIQA have it."""
        return f"Question: {self.question}\nAnswer:"


@dataclass(frozen=True)
class Questions:
    """A set of questions.

    Attributes:
        name: What to call it in a report.
        questions: In order.
    """

    name: str
    questions: tuple[Question, ...]
    kind: ClassVar[Kind] = "text"

    def __len__(self) -> int:
        """How many questions."""
        return len(self.questions)

    def fingerprints(self) -> dict[str, frozenset[str]]:
        """Return the fingerprints of every question, by its number."""
        return {
            f"question {number}": text_fingerprints("\n".join((one.question, *one.choices)))
            for number, one in enumerate(self.questions, start=1)
        }


def holds_questions(path: Path) -> bool:
    """Whether a file is JSONL whose first row has a question and choices."""
    if path.suffix.lower() != ".jsonl" or not path.is_file():
        return False
    *_, row = next(json_lines(path), (None,))
    return isinstance(row, dict) and {"question", "choices"} <= row.keys()


def read_questions(path: Path, *, limit: int | None = None) -> Questions:
    """Read a file of questions.

    Args:
        path: JSONL, every row of the form :data:`FORM`; other keys are ignored.
        limit: Only the first so many.

    Raises:
        SurgeryError: It cannot be read; names the line of a bad row.
    """
    found = list[Question]()
    for number, line, row in json_lines(path):
        if len(found) == limit:
            break
        found.append(_question(row, line, f"{path}, line {number}"))
    return Questions(data_name(path), tuple(found))


def _question(row: Any, line: str, where: str) -> Question:
    asked, choices, answer = (
        (row.get(key) if isinstance(row, dict) else None)
        for key in ("question", "choices", "answer")
    )
    if (
        isinstance(asked, str)
        and isinstance(choices, list)
        and len(choices) > 1
        and all(isinstance(one, str) and one.strip() for one in choices)
        and isinstance(answer, int)
        and not isinstance(answer, bool)
        and 0 <= answer < len(choices)
    ):
        return Question(asked, tuple(choices), answer, where)
    raise SurgeryError(
        "This is no question with choices",
        where=where,
        found=shortened(line),
        expected=FORM,
    )
