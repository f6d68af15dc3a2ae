"""What a cut did to the model, in the sentence that stands first: measured, or said not to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log
from typing import Literal, cast

from surgery.report.model.calibration import Calibration, HeldOut, Interval
from surgery.report.model.report import Measurement, Report
from surgery.report.text.calibration import (
    NO_WORDS,
    error_name,
    error_text,
    held_out_figure,
    held_out_rows,
)
from surgery.report.text.feed_forward import DASH, is_narrower
from surgery.report.text.few_words import few_words
from surgery.report.text.linear_views import is_linear
from surgery.report.text.summary import is_pruned, is_structure, measured_text
from surgery.report.wording import capitalised, percent, scientific

UNMEASURED = "Not measured on real input: the model may be ruined."

UNTRIED = "By weights alone: nothing was run. --calibrate shipped says what a cut would cost."

COUNTED = "Counted, and not run: what it costs is told once it is written."
NOT_HELD_OUT = "Nothing was held out: what this costs is not known, and it may be a ruined model."

RUINED = 0.3
"""Relative error of an output from which on a reader should be warned."""
DEARER = 1.1  # likewise, times the perplexity
MORE_ERRORS = 0.01  # likewise, of the word error rate

Tone = Literal["plain", "bad"]


@dataclass(frozen=True)
class DamageText:
    """One sentence, and whether it is bad news."""

    text: str
    tone: Tone


def damage_text(report: Report) -> DamageText | None:
    """Say what the cut cost; ``None`` where nothing was cut, or where the method trains parts."""
    if report.tuning is not None or is_linear(report) or is_structure(report):
        return None
    if not is_pruned(report):
        return None
    told = report.calibration
    if told is not None and told.held_out is not None:
        text = f"{capitalised(held_out_text(told, told.held_out))}.{_no_words(told)}"
        bad = _is_bad(told, told.held_out)
        for one in report.measurements[:1]:  # on other data: told apart by what it is
            measured = measured_text(one)
            text += f" On the test data: {measured[:1].lower()}{measured[1:]}."
            bad = bad or _is_worse(one)
        return DamageText(text, "bad" if bad else "plain")
    for one in report.measurements[:1]:
        return DamageText(f"{measured_text(one)}.", "bad" if _is_worse(one) else "plain")
    if is_narrower(report):
        dry = report.output is None
        return DamageText(COUNTED, "plain") if dry else DamageText(NOT_HELD_OUT, "bad")
    if told is not None:
        return DamageText(_before_the_fact(told), "plain")
    if report.output is None:
        return DamageText(UNTRIED, "plain")
    return DamageText(UNMEASURED, "bad")


def _before_the_fact(told: Calibration) -> str:
    """Say what rows that chose the cut told of it, or what was predicted."""
    name = capitalised(error_name(told, unit=False))
    if told.measured is not None:
        where = "the rows it was fitted to" if told.in_sample else "rows for trials"
        text = f"{name} {error_text(told.measured, told)} on {where}; none was held out."
    elif told.predicted is not None:
        text = f"{name} {error_text(told.predicted, told)} predicted; nothing was run."
    else:
        return "Decided by saved statistics; nothing was run."
    return text + _no_words(told)


def _no_words(told: Calibration) -> str:
    """Say that an error is no word error rate, where nobody told one."""
    known = told.held_out is not None and told.held_out.figure
    return "" if known or told.output != "encoder output" else f" {capitalised(NO_WORDS)}."


def is_priced(report: Report) -> bool:
    """Whether anything was run that says what a cut costs."""
    told = report.calibration
    tried = told is not None and (told.held_out is not None or told.measured is not None)
    return bool(report.measurements) or tried


def held_out_text(told: Calibration, price: HeldOut) -> str:
    """Say what a cut costs on held-out rows, the figure that people know first."""
    parts = []
    if price.figure and price.before is not None and price.after is not None:
        parts.append(_figure(price, price.before, price.after))
    error = f"{error_name(told, unit=False)} {error_text(price.error.value, told)}"
    parts.append(error + _between(price.error, scientific))
    if price.agreement is not None:
        parts.append(f"the same next token at {percent(price.agreement)} of positions")
    return f"{'; '.join(parts)}: {held_out_rows(told, price)}, the calibration data"


def held_out_change(price: HeldOut) -> tuple[str, str]:
    """Write what people know first of a price as a change, and its interval; a dash for none."""
    change, words = price.difference, cast(Callable[[float], str], scientific)
    if change is None or not price.figure:
        change = price.error
    else:
        words = _growth if price.figure == "perplexity" else _points
    if change.low is None or change.high is None:
        return words(change.value), DASH
    return words(change.value), f"{words(change.low)} to {words(change.high)}"


def _figure(price: HeldOut, before: float, after: float) -> str:
    change = price.difference
    if price.figure == "perplexity":
        text = f"perplexity {held_out_figure(price, before)} → {held_out_figure(price, after)}"
        if change is None:
            return text
        return f"{text} ({_growth(change.value)}{_between(change, _growth, ', ')})"
    text = f"{price.figure} {held_out_figure(price, before)} → {held_out_figure(price, after)}"
    text = text if change is None else text + _between(change, _points)
    return ", ".join(filter(None, [text, few_words(price.words)]))


def _growth(log_ratio: float) -> str:
    """Write a difference of log-perplexities as growth of the perplexity."""
    growth = 100 * (exp(min(log_ratio, 50.0)) - 1)
    return f"{growth:+.3g} %".replace("-", "−")


def _points(difference: float) -> str:
    return f"{100 * difference:+.2g} points".replace("-", "−")


def _between(interval: Interval, words: Callable[[float], str], before: str = "") -> str:
    """Write an interval after its figure; nothing where there are too few rows for one."""
    if interval.low is None or interval.high is None:
        return ""
    if interval.low == interval.high == 0:
        return f"{before}no window differs" if before else " (no window differs)"
    text = f"95 % interval {words(interval.low)} to {words(interval.high)}"
    return f"{before}{text}" if before else f" ({text})"


def _is_worse(one: Measurement) -> bool:
    """Whether what was measured on other data is bad news, by the same limits."""
    if one.before is None:
        return False
    limit = {"wer": one.before + 100 * MORE_ERRORS, "perplexity": DEARER * one.before}
    return one.metric in limit and not one.after <= limit[one.metric]


def _is_bad(told: Calibration, price: HeldOut) -> bool:
    # NaN keeps no limit.
    if price.figure == "perplexity" and price.before is not None and price.after is not None:
        return not price.after <= DEARER * price.before
    if price.figure and price.before is not None and price.after is not None:
        return not price.after <= price.before + MORE_ERRORS
    return not price.error.value <= (RUINED if told.unit == "relative" else log(DEARER))
