"""What the screen shows of tokens that left a vocabulary, in 80 columns."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from surgery.report.model.report import Report
from surgery.report.model.vocabulary import VocabularyReport
from surgery.report.text.vocabulary import reason_rows, use_rows
from surgery.report.wording import percent, printable
from surgery_cli.tables import capped, quantities, remarks, savings, table

STEPS = 6  # of the curve


def vocabulary_parts(report: Report, told: VocabularyReport) -> list[RenderableType]:
    """Return the tables of parameters, uses and bytes, and remarks."""
    parts = [savings(report), *quantities(report.quantities)]
    if told.uses:
        uses = table("Tokens of", "covered", "before", "after", "change")
        for row in use_rows(told):
            cells = (Text(row[key]) for key in ("covered", "before", "after", "change"))
            uses.add_row(Text(printable(row["name"])), *cells)
        parts.append(capped(uses))
    reasons = table("Why tokens stay", "tokens")
    for reason, number in reason_rows(told):
        reasons.add_row(Text(printable(reason)), Text(number))
    parts.append(capped(reasons))
    if report.output is None and len(told.curve) > STEPS:
        parts.append(_curve(told))
    return [*parts, remarks([("Tokenizer", told.kind), *(("Note", one) for one in report.notes)])]


def _curve(told: VocabularyReport) -> RenderableType:
    """Show what keeping only the most used tokens would save and cover."""
    shown = table("Keeping the most used", "of the model", "covered")
    last = len(told.curve) - 1
    for at in range(STEPS + 1):
        one = told.curve[round(last * at / STEPS)]
        shown.add_row(Text(f"{one.kept:,}"), Text(percent(one.removed)), Text(percent(one.covered)))
    return capped(shown)
