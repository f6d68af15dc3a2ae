"""In which order a budget was spent: the same few lines on screen and page."""

from __future__ import annotations

from dataclasses import replace

from surgery.report.html import to_html
from surgery.report.model.budget import BudgetChoice, BudgetReport, BudgetStep
from surgery.report.serialise import from_json, to_json
from surgery.report.text.budget import GROUPS, budget_rows, choices_text, price_unit
from surgery.report.wording import scientific
from tests.report.feed_forward_factory import make_narrower
from tests.report.test_feed_forward_pages import views

STEPS = [
    BudgetStep("attention", "decoder", 7, 50, 0.0, 1e-6, True),
    *(
        BudgetStep("ffn", "decoder", layer, 100, 0.5, layer / 10_000, False)
        for layer in range(1, 40)
    ),
    BudgetStep("layer", "decoder", 14, 1000, 0.0, 0.2, True),
]
CHOICES = [
    BudgetChoice(["decoder:14"], 0.2, 0.3),
    BudgetChoice([], 0.1, 0.4),
    BudgetChoice(["decoder:14", "decoder:9"], 0.5, None),
]
REPORT = replace(make_narrower("llama"), budget=BudgetReport("nat/token", STEPS, CHOICES))


def test_steps_are_grouped_in_the_order_in_which_they_went() -> None:
    rows = budget_rows(REPORT)
    assert len(rows) <= GROUPS
    assert rows[0][2].startswith("all attention of 7; feed-forward of 1")
    assert rows[-1][2].startswith("whole layer 14")
    shares = [float(gone.removesuffix(" %").replace("<", "")) for gone, _, _ in rows]
    assert shares == sorted(shares)
    prices = [float(price) for _, price, _ in rows]
    assert prices == sorted(prices)
    assert price_unit(REPORT) == "nats a token for 1 % of the model"


def test_towers_are_told_apart_where_there_are_two() -> None:
    steps = [BudgetStep("ffn", scope, 1, 100, 0.5, 0.1, False) for scope in ("encoder", "decoder")]
    steps.append(BudgetStep("cross-attention", "decoder", 2, 100, 0.0, 0.1, True))
    rows = budget_rows(replace(REPORT, budget=BudgetReport("relative", steps)))
    text = "; ".join(what for *_, what in rows)
    assert "feed-forward of encoder 1" in text and "feed-forward of decoder 1" in text
    assert "all cross-attention of decoder 2" in text
    assert not budget_rows(make_narrower("llama"))


def test_page_and_screen_tell_it_and_the_file_keeps_it() -> None:
    shown = views(REPORT)
    for view in ("page", "screen"):
        assert "all attention of 7" in shown[view] and "whole layer 14" in shown[view]
        assert f"no layer: {scientific(0.1)} nat/token expected" in shown[view]
    assert choices_text(REPORT).startswith(f"without decoder:14: {scientific(0.2)} nat")
    assert from_json(to_json(REPORT)).budget == REPORT.budget
    assert "How the budget was spent" in to_html(REPORT)
