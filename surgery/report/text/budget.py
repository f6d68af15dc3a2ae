"""In which order a budget was spent, worded once for screen, card and page."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.report.model.budget import BudgetChoice, BudgetReport, BudgetStep
from surgery.report.model.report import Report
from surgery.report.wording import percent, ranges, scientific

GROUPS = 8
"""Lines that the order is told in at most."""
_PARTS = {
    "layer": "whole layer",
    "attention": "attention of",
    "cross-attention": "cross-attention of",
    "ffn": "feed-forward of",
}


def budget_rows(report: Report) -> list[tuple[str, str, str]]:
    """Return in a few lines what went first: share of the model gone by then, its price, what.

    A price is that of the dearest step of a line, for one percent of the model.
    """
    budget, whole = report.budget, _parameters(report)
    if budget is None or not whole:
        return []
    rows, gone, towers = [], 0, len({step.scope for step in budget.steps}) > 1
    for group in _groups(budget.steps):
        gone += sum(step.parameters for step in group)
        dearest = max(step.cost / step.parameters for step in group)
        rows.append(
            (percent(gone / whole), scientific(dearest * whole / 100), _what(group, towers=towers))
        )
    return rows


def price_unit(report: Report) -> str:
    """Return the unit of the prices of :func:`budget_rows`."""
    nats = report.budget is not None and report.budget.unit == "nat/token"
    return f"{'nats a token' if nats else 'squared error'} for 1 % of the model"


def choices_text(report: Report) -> str:
    """Say which ways to spend the budget were compared; empty where there was one."""
    budget = report.budget
    if budget is None or len(budget.choices) < 2:
        return ""
    return "; ".join(_choice(one, budget) for one in budget.choices)


def _choice(one: BudgetChoice, budget: BudgetReport) -> str:
    unit = "" if budget.unit == "relative" else f" {budget.unit}"
    count = len(one.layers)
    gone = "no layer" if not count else f"{count} layer{'' if count == 1 else 's'}"
    text = f"without {', '.join(one.layers)}" if count else gone
    text = f"{text}: {scientific(one.expected)}{unit} expected"
    return text if one.measured is None else f"{text}, {scientific(one.measured)}{unit} measured"


def _groups(steps: Sequence[BudgetStep]) -> list[list[BudgetStep]]:
    """Cut steps into groups that remove about as much each."""
    whole = sum(step.parameters for step in steps)
    groups, gone = list[list[BudgetStep]](), 0
    for step in steps:
        group = min(GROUPS - 1, gone * GROUPS // whole)
        while len(groups) <= group:
            groups.append([])
        groups[group].append(step)
        gone += step.parameters
    return [group for group in groups if group]


def _what(group: Sequence[BudgetStep], *, towers: bool) -> str:
    """Say which parts a group is of, by tower and kind, and what is gone whole."""
    said = []
    for part, words in _PARTS.items():
        for scope in dict.fromkeys(step.scope for step in group if step.part == part):
            own = [step for step in group if (step.part, step.scope) == (part, scope)]
            tower = f"{scope} " if towers else ""
            whole = {step.layer for step in own if step.share == 0}
            less = {step.layer for step in own} - whole
            if part == "layer":
                said.append(f"{tower}{words}{'' if len(whole) == 1 else 's'} {ranges(whole)}")
                continue
            if whole:
                said.append(f"all {words} {tower}{ranges(whole)}")
            if less:
                said.append(f"{words} {tower}{ranges(less)}")
    return "; ".join(said)


def _parameters(report: Report) -> int:
    return next((one.before for one in report.savings if one.name == "model"), 0)
