"""How what real input told is worded: shared by the page, the card and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from surgery.choices.common import SHIPPED
from surgery.choices.rules import LITTLE_ERROR, LITTLE_PERPLEXITY, OTHER_TEXT, little_divergence
from surgery.report.model.calibration import (
    Calibration,
    HeldOut,
    PartPrices,
    Price,
    SearchStep,
)
from surgery.report.model.report import Report
from surgery.report.text.summary import PAIR_NAMES, budget_name, measured_text, pair_in_scope
from surgery.report.wording import change, count, percent, scientific

SHARES = (0.125, 0.25, 0.375, 0.5)
"""Budgets of the price table."""
SHARES_OF_MODEL = (0.05, 0.1, 0.15, 0.2, 0.3)
"""Shares of the whole model that are priced, and those of the table of parts."""
PART_NAMES = {"ffn": "feed-forward", "all": "all together"}

OTHERS = f" on other text, which costs up to {OTHER_TEXT:g} times as much"

_NEAR = 0.02  # a point further from its budget than this does not stand for it
_BOUNDS = {
    "up_to": ("error", ""),
    "max_error": ("error", "an error of at most"),
    "max_wer_increase": ("WER increase", "a word error rate that rises by at most"),
    "max_ppl_increase": ("perplexity increase", "a perplexity that rises by at most"),
}


def is_relative(calibration: Calibration | PartPrices) -> bool:
    """Whether errors are relative ones, whose square is the damage."""
    return calibration.unit == "relative"


def error_name(calibration: Calibration | PartPrices, *, unit: bool = True) -> str:
    """Say what an error is an error of: ``relative error of the encoder output``."""
    if is_relative(calibration):
        return f"relative error of the {calibration.output}"
    return f"divergence of the {calibration.output}" + f" ({calibration.unit})" * unit


def error_text(value: float, calibration: Calibration | PartPrices) -> str:
    """Write an error with its unit: ``0.0312``, ``0.0312 nat/token``."""
    text = scientific(value) if isfinite(value) else str(value)
    return text if is_relative(calibration) else f"{text} {calibration.unit}"


def layouts_of(prices: Sequence[Price]) -> dict[str, list[Price]]:
    """Return the points of each layout by rising budget, layouts in the order they occur."""
    groups: dict[str, list[Price]] = {}
    for price in prices:
        groups.setdefault(price.layout, []).append(price)
    return {name: sorted(some, key=lambda one: one.removed) for name, some in groups.items()}


@dataclass(frozen=True)
class PriceRow:
    """One budget: predicted and measured error under each layout; ``None`` where unknown."""

    removed: str
    cells: list[tuple[str, str | None] | None]


def price_rows(prices: Sequence[Price], shares: Sequence[float] = SHARES) -> list[PriceRow]:
    """Return what some budgets cost, from the nearest points of each layout."""
    groups = layouts_of(prices).values()
    rows = []
    for share in shares:
        found = [_nearest(points, share) for points in groups]
        if any(found):
            rows.append(PriceRow(percent(share), [_cell(point) for point in found]))
    return rows


def _nearest(points: Sequence[Price], share: float) -> Price | None:
    near = [point for point in points if abs(point.removed - share) <= _NEAR]
    # of points equally near (within rounding to whole ranks), one that was measured
    return min(
        near,
        key=lambda point: (round(abs(point.removed - share), 3), point.measured is None),
        default=None,
    )


def _cell(point: Price | None) -> tuple[str, str | None] | None:
    if point is None:
        return None
    measured = None if point.measured is None else scientific(point.measured)
    return scientific(point.predicted), measured


def outcome_text(calibration: Calibration) -> str:
    """Say what was predicted for this result and what was measured; empty without either."""
    predicted, fitted = calibration.predicted, calibration.measured
    measured = fitted if calibration.unfitted is None else calibration.unfitted
    parts = []
    if predicted is not None:
        parts.append(f"{error_text(predicted, calibration)} predicted")
    if measured is not None:
        where = "in sample" if calibration.in_sample else "on rows for trials"
        parts.append(f"{error_text(measured, calibration)} measured {where}")
    text = ", ".join(parts)
    if predicted and measured is not None and isfinite(predicted) and isfinite(measured):
        text += f" ({change(predicted, measured)})"
    if calibration.unfitted is not None and fitted is not None:
        text += f", {error_text(fitted, calibration)} once outputs were refitted"
    return text


def parts_text(parts: PartPrices) -> str:
    """Say what the prices of parts of the model are."""
    return (
        f"{error_name(parts)} that surgery compress expects, to each block its own width; layers "
        "were tried, the rest is predicted to first order, which flatters large cuts"
    )


def leak_text(calibration: Calibration) -> str:
    """Warn of samples in both calibration and evaluation data; empty without any."""
    if not calibration.leaked:
        return ""
    some = "1 sample is" if calibration.leaked == 1 else f"{calibration.leaked:,} samples are"
    return (
        f"{some} in both the calibration and the evaluation data. "
        "What was measured on them flatters the result."
    )


def bound_text(report: Report, calibration: Calibration) -> str:
    """Say what a search had to keep: ``an error of at most 0.1``; empty without a search."""
    if calibration.bound is None:
        return ""
    if calibration.bound == "up_to":
        little = f"an error of at most {LITTLE_ERROR:g}"
        if not is_relative(calibration):
            least, dearer = _divergence(report), percent(LITTLE_PERPLEXITY)
            little = f"a divergence of at most {least:.3g} {calibration.unit} (a perplexity about "
            little += f"{dearer} higher{OTHERS if _is_shipped(report) else ''})"
        asked = report.options.get("up_to")
        if not isinstance(asked, float):
            return little
        most = f"{percent(asked)} of the {budget_name(report)}"
        return f"{little}, and no more than {most}, rounded up to whole vectors"
    _, words = _BOUNDS.get(calibration.bound, ("", calibration.bound.replace("_", " ")))
    limit = _limit(report, calibration)
    return f"{words} {'what was asked' if limit is None else _amount(limit, calibration)}"


def _is_shipped(report: Report) -> bool:
    return report.options.get("calibrate") == SHIPPED


def _divergence(report: Report) -> float:
    return little_divergence(shipped=_is_shipped(report))


def _limit(report: Report, calibration: Calibration) -> float | None:
    """Return what the values of a search had to keep below."""
    if calibration.bound == "up_to":
        return LITTLE_ERROR if is_relative(calibration) else _divergence(report)
    limit = report.options.get(calibration.bound or "")
    if not isinstance(limit, int | float) or isinstance(limit, bool):
        return None
    # the option is a fraction of the perplexity, what a search found is in per cent of it
    return float(limit) * (100 if calibration.bound == "max_ppl_increase" else 1)


def of_base(report: Report) -> str:
    """Say behind a fraction what it is of, where that is less than the attention in scope."""
    pair = pair_in_scope(report)
    return "" if pair is None else f" of {PAIR_NAMES[pair]}"


NO_OTHER = "what another error costs is not known"
NO_WORDS = "an error alone says nothing of word error rates: that takes transcripts"


def meaning_text(report: Report, calibration: Calibration) -> str:
    """Say what an error is worth in words or perplexity: the point that was measured, if any was.

    The error of a model's output is no word error rate, and nothing turns one into the other but
    a measurement of both.
    """
    price = calibration.held_out
    if price is not None and price.figure and price.before is not None and price.after is not None:
        at = error_text(price.error.value, calibration)
        before, after = (held_out_figure(price, each) for each in (price.before, price.after))
        cut = "this cut" if report.output is not None else "the cut asked"
        return (
            f"measured at one point: {cut}, {at} on held-out rows, takes the {price.figure} from "
            f"{before} to {after}; {NO_OTHER}"
        )
    if report.measurements:
        return f"measured of this cut: {measured_text(report.measurements[0])}; {NO_OTHER}"
    if calibration.output == "encoder output":
        return NO_WORDS
    if calibration.output == "last hidden state":
        return "an error alone says nothing of a task: that is for the task to tell"
    return "a divergence is no perplexity and no word error rate, and neither was measured"


def held_out_figure(price: HeldOut, value: float) -> str:
    """Write a perplexity or a word error rate: ``25.91``, ``5.26 %``."""
    return f"{value:.4g}" if price.figure == "perplexity" else f"{100 * value:.3g} %"


def held_out_rows(calibration: Calibration, price: HeldOut) -> str:
    """Say on which rows a price was found: ``on 5 held-out windows of speech/calib``."""
    rows = "1 held-out window" if price.rows == 1 else f"{price.rows:,} held-out windows"
    return f"on {rows} of {calibration.data}"


def value_title(calibration: Calibration) -> str:
    """Name what a search measured."""
    return _BOUNDS.get(calibration.bound or "", ("value", ""))[0]


def step_text(step: SearchStep, report: Report, calibration: Calibration) -> str:
    """Write what a search measured at one budget, with its unit and sign.

    A value close to the bound is written with as many digits as tell on which side of it it is.
    """
    text, limit = _amount(step.value, calibration), _limit(report, calibration)
    number, *unit = text.split(" ", 1)
    if limit is not None and isfinite(step.value) and step.value != limit:
        digits = 3
        while float(number.replace("−", "-")) == limit:
            digits += 1
            number = f"{step.value:.{digits}g}".replace("-", "−")
        text = " ".join([number, *unit])
    rises = calibration.bound in ("max_wer_increase", "max_ppl_increase")
    return f"+{text}" if rises and step.value > 0 else text


def _amount(value: float, calibration: Calibration) -> str:
    if calibration.bound == "max_wer_increase":
        return f"{value:.3g} point{'' if value == 1 else 's'}".replace("-", "−")
    if calibration.bound == "max_ppl_increase":
        return f"{value:.3g} %".replace("-", "−")
    return error_text(value, calibration)


def data_text(calibration: Calibration) -> str:
    """Say how much was listened to or read."""
    some = "1 sample" if calibration.samples == 1 else f"{calibration.samples:,} samples"
    return (
        f"{some}, {count(calibration.queries)} positions by weight" if calibration.queries else some
    )


def padding_text(calibration: Calibration) -> str:
    """Say what a position that only fills up a window counted."""
    weight = calibration.padding_weight
    return f"counts {weight:g} of a position with content" if weight else "not counted"


def ridge_text(calibration: Calibration) -> str:
    """Say how much of what the weights alone tell was mixed in."""
    if not calibration.ridge:
        return "none: measured second moments alone"
    return f"{percent(calibration.ridge)} of the weights' own second moments mixed in"


def calibration_sentence(calibration: Calibration) -> str:
    """Say in one sentence what the cut was chosen on and whether its price came true.

    It goes on after the name of the data, which whoever writes it down has to escape.
    """
    text = f"({data_text(calibration)})"
    outcome = outcome_text(calibration)
    return f"{text}; {error_name(calibration, unit=False)}: {outcome}." if outcome else f"{text}."
