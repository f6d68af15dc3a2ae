"""How a tuning run is told to people: shared by the page, the card and the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from surgery.report.model.report import Report
from surgery.report.model.tuning import Moved, Tuning
from surgery.report.text.few_words import few_words
from surgery.report.text.linear_words import words
from surgery.report.text.linears import DASH, plural
from surgery.report.text.tuning_views import (
    Curve,
    broken_steps,
    curves_of,
    last_step,
    pass_losses,
    risen,
    spread_of,
    value_changes,
)
from surgery.report.wording import count, percent, scientific


def method_name(method: str) -> str:
    """Return the method as its authors write it."""
    return words(method).name or method


def figure_text(value: float, unit: str = "") -> str:
    """Write a loss, a penalty or a word error rate: ``1.02``, ``3.1e-05``, ``3.40 %``."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.2f} %" if unit == "%" else scientific(value)


def change_text(value: float | None) -> str:
    """Write a relative change of a weight: ``3.1 %``."""
    if value is None:
        return DASH
    return percent(value) if math.isfinite(value) else str(value)


def signed(fraction: float) -> str:
    """Write a fraction with its sign: ``+3.1 %``, ``−0.02 %``."""
    if abs(fraction) < 5e-7:
        return "0 %"
    return percent(fraction) if fraction < 0 else "+" + percent(fraction)


def values_text(maps: Sequence[Moved]) -> str:
    """Write how singular values moved: ``−2.1 to +4.0 %``, the middle 80 % of them."""
    spread = spread_of(value_changes(maps))
    if spread is None:
        return DASH
    return f"{signed(spread.low).removesuffix(' %')} to {signed(spread.high)}"


def changes_text(maps: Sequence[Moved]) -> str:
    """Write the range of the relative changes of some weights: ``0.8–3.1 %``."""
    values = [one.change for one in maps if math.isfinite(one.change)]
    if not values:
        return DASH
    low, high = percent(min(values)), percent(max(values))
    return low if low == high else f"{low.removesuffix(' %')}–{high}"


def tuning_sentence(report: Report, tuning: Tuning) -> str:
    """Say in one sentence what was trained, on what, and what came of it."""
    total = report.trainable
    trained = method_name(tuning.method)
    if total is not None:
        trained = (
            f"{count(total.trainable)} of {count(total.total)} parameters "
            f"({percent(total.share)}, {trained})"
        )
    where = f" of {plural(len(tuning.moved), 'linear map')}" if tuning.moved else ""
    text = f"Trained {trained}{where} for {plural(last_step(tuning), 'step')} on {tuning.data}"
    outcome = outcome_text(tuning)
    return f"{text}: {outcome}." if outcome else f"{text}."


def outcome_text(tuning: Tuning) -> str:
    """Say where the loss and the word error rate went, on the same samples before and after.

    Those are held-out ones from the start to the end; where there are none, all samples from the
    first pass to the last. Of a single pass only where it ended can be said.
    """
    curves = curves_of(tuning)
    told = [_went(curves[name]) for name in ("held_out", "wer") if name in curves]
    if "wer" in curves:
        told += filter(None, [few_words(tuning.held_out[-1].words)])
    if told or "training" not in curves:
        return ", ".join(told)
    passes = pass_losses(tuning)
    if passes is None:
        return f"training loss {figure_text(curves['training'].smooth[-1])}"
    first, last = map(figure_text, passes)
    return f"training loss {first} in the first pass → {last} in the last"


def _went(curve: Curve) -> str:
    """Say where one figure began and ended."""
    name = {"held_out": "held-out loss", "wer": "word error rate"}[curve.name]
    first, last = (figure_text(value, curve.unit) for value in (curve.values[0], curve.values[-1]))
    if len(curve.steps) == 1:
        return f"{name} {last}"
    return f"{name} {first.removesuffix(' %')} → {last}"


def seen_text(tuning: Tuning) -> str:
    """Say how much went through the model: ``9,600 examples (2.5 passes), 1.2 M tokens``."""
    text = plural(tuning.examples_seen, "example")
    if tuning.samples:
        passes = tuning.examples_seen / tuning.samples
        text += f" ({passes:.3g} pass{'' if passes == 1 else 'es'})"
    if tuning.tokens_seen is not None:
        text += f", {count(tuning.tokens_seen)} tokens predicted"
    return text


def fact_rows(tuning: Tuning) -> list[tuple[str, str]]:
    """Return labelled facts about the run, those there are."""
    rows = [("Method", method_name(tuning.method))]
    if tuning.recipe is not None:
        rows.append(("Recipe", tuning.recipe))
    rows.append(("Data", f"{tuning.data}, {plural(tuning.samples, 'sample')}"))
    rows.append(("Seen", seen_text(tuning)))
    peak = max((one.learning_rate for one in tuning.steps), default=0.0)
    if peak > 0:
        rows.append(("Learning rate", f"at most {scientific(peak)}"))
    if tuning.penalty is not None:
        rows.append(("Penalty", tuning.penalty))
    if tuning.resumed_from is not None:
        rows.append(("Resumed", f"from step {tuning.resumed_from:,}"))
    return rows


def warning_text(tuning: Tuning) -> str:
    """Warn of steps without a finite loss, and of a held-out loss that rose; else empty."""
    told = []
    broken = broken_steps(tuning)
    if broken:
        some = "1 logged step has" if broken == 1 else f"{broken:,} logged steps have"
        told.append(f"{some} no finite loss. They are left out of every figure here.")
    if tuning.held_out and not math.isfinite(tuning.held_out[-1].loss):
        told.append("The held-out loss is no number any more: the model is ruined.")
    rise = risen(tuning)
    if rise is not None:
        earlier, last = rise
        ends = f"from {figure_text(earlier.loss)} {{}} to {figure_text(last.loss)}"
        if earlier is tuning.held_out[0]:
            told.append(
                f"The held-out loss rose, {ends.format('at the start')}: of what it has not learnt "
                "from the model knows less than before. Lower --learning-rate, or take fewer steps."
            )
        else:
            at = f"at step {earlier.step:,}"
            told.append(
                f"The held-out loss rose again, {ends.format(at)}: fewer steps, or a lower "
                "--learning-rate, are better."
            )
    return " ".join(told)


def curve_rows(tuning: Tuning) -> list[tuple[Curve, dict[str, str]]]:
    """Word each figure that was followed: its first, last and lowest value, and where."""
    return [
        (
            curve,
            {
                "title": curve.title,
                "first": figure_text(curve.smooth[0], curve.unit),
                "last": figure_text(curve.smooth[-1], curve.unit),
                "lowest": figure_text(curve.smooth[curve.lowest], curve.unit) if sought else DASH,
                "step": f"{curve.steps[curve.lowest]:,}" if sought else DASH,
            },
        )
        for curve in curves_of(tuning).values()
        # where a penalty or a defect was least says nothing: they start there
        for sought in [curve.name in ("training", "held_out", "wer")]
    ]
