"""Tokens that left a vocabulary, as people are told of them; worded once for every view."""

from __future__ import annotations

from surgery.report.model.report import Report
from surgery.report.model.vocabulary import VocabularyReport, VocabularyUse
from surgery.report.wording import change, percent


def vocabulary_sentence(report: Report, told: VocabularyReport) -> str:
    """Say how many tokens stay, and how much of the model that takes."""
    model = next(one for one in report.savings if one.name == "model")
    dry = report.output is None
    languages = f", of languages {', '.join(told.languages)}" if told.languages else ""
    return (
        f"{told.kept:,} of {told.before:,} tokens {'would stay' if dry else 'stay'}{languages}: "
        f"{percent(model.removed)} of the model {'would go' if dry else 'is gone'}, and what is "
        "left is the original's, bit for bit."
    )


def use_rows(told: VocabularyReport) -> list[dict[str, str]]:
    """Word everything that uses tokens: name, share covered, tokens before and after."""
    return [
        {
            "name": one.name,
            "covered": percent(one.covered),
            "before": "" if one.before is None else f"{one.before:,}",
            "after": "" if one.after is None else f"{one.after:,}",
            "change": _growth(one),
        }
        for one in told.uses
    ]


def reason_rows(told: VocabularyReport) -> list[tuple[str, str]]:
    """Word why tokens stay: the reason, and how many."""
    return [(reason, f"{number:,}") for reason, number in told.reasons.items()]


def _growth(one: VocabularyUse) -> str:
    if one.before is None or one.after is None:
        return ""
    return change(one.before, one.after)
