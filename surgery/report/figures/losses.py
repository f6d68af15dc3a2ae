"""How a training run went: losses, word error rate, penalty and defect against the step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from surgery.report.figures.canvas import (
    CUT,
    FROZEN,
    INK,
    MUTED,
    PAPER,
    PHONE,
    TRAINED,
    WIDE,
    Picture,
    axes,
    draw,
    log_axis,
    power,
)
from surgery.report.figures.labels import End, name_ends
from surgery.report.model.report import Report
from surgery.report.model.tuning import Tuning
from surgery.report.text.tuning import figure_text
from surgery.report.text.tuning_views import Curve, curves_of, last_step
from surgery.report.wording import scientific

_TOP, _BOTTOM = 28, 50
_SIDES = {WIDE: (58, 128, 8), PHONE: (44, 112, 4)}
"""Margins left and right, where lines are named, and most steps that are labelled."""
_MAIN, _SMALL, _STRIP = 210, 72, 34  # heights of the losses, of what is below, of the rate
_GAP = 34  # between panels, with the title of the lower one in it
_POINTS = 600  # of a line: more would not be seen
_MANY = 40  # evaluations that still get a dot each
_DECADE = 8.0  # a range wider than this is drawn logarithmically

_TITLES = {
    "loss": "Loss, nats a token",
    "wer": "Word error rate on held-out data, %",
    "penalty": "Penalty, as weighted in the loss",
    "defect": "Largest departure from orthonormality",
    "rate": "Learning rate",
}


def losses(report: Report) -> list[Picture]:
    """Draw what was followed during training, one panel below the other over the same steps."""
    tuning = report.tuning
    if tuning is None:
        return []
    curves = curves_of(tuning)
    if not {"training", "held_out"} & set(curves):
        return []
    panels = ["loss", *(name for name in ("wer", "penalty", "defect") if name in curves)]
    heights = [_MAIN] + [_SMALL] * (len(panels) - 1)
    if any(one.learning_rate > 0 for one in tuning.steps):
        panels.append("rate")
        heights.append(_STRIP)
    height = _TOP + sum(heights) + _GAP * (len(heights) - 1) + _BOTTOM
    last = max(last_step(tuning), 1)

    def paint(figure: Figure, width: int) -> None:
        top = _TOP
        left, right, ticks = _SIDES[width]
        for panel, tall in zip(panels, heights, strict=True):
            axis = axes(figure, left, height - top - tall, right, top)
            _frame(axis, _TITLES[panel], last, ticks, lowest=panel == panels[-1])
            if panel == "loss":
                _losses(axis, curves)
            elif panel == "rate":
                _rate(axis, tuning)
            else:
                _small(axis, curves[panel], exact=panel in ("wer", "defect"))
            _resumed(axis, tuning, named=panel == "loss")
            top += tall + _GAP

    caption = _caption(curves, tuning)
    said = "; ".join(_said(curve) for curve in curves.values())
    title = "How the training went"
    name = "losses"
    alt = f"{len(panels)} panels over {last:,} steps. {said}."
    svg, small = (
        draw(
            partial(paint, width=width),
            width=width,
            height=height,
            name=called,
            title=title,
            alt=alt,
        )
        for width, called in ((WIDE, name), (PHONE, f"{name}-small"))
    )
    return [Picture(name, title, caption, alt, svg, wide=True, small=small)]


def _caption(curves: dict[str, Curve], tuning: Tuning) -> str:
    parts = []
    training = curves.get("training")
    if training is not None:
        parts.append("Blue: training loss")
        if training.window > 1:
            parts[-1] += f" as logged, and its mean over {training.window} logs"
    if "held_out" in curves:
        parts.append("black: data that was held out of training")
    if any(one.learning_rate > 0 for one in tuning.steps):
        parts.append("grey: learning rate")
    return "; ".join(parts) + "."


def _said(curve: Curve) -> str:
    ends = f"{curve.title.lower()} {figure_text(curve.smooth[0], curve.unit)}"
    return f"{ends} to {figure_text(curve.smooth[-1], curve.unit)}"


def _frame(axis: Axes, title: str, last: int, ticks: int, *, lowest: bool) -> None:
    axis.set_xlim(0, last)
    axis.set_title(title, color=INK, pad=8)
    axis.grid()
    axis.tick_params(length=0)
    axis.spines["left"].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(ticks, integer=True))
    if lowest:
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.set_xlabel("step")
        axis.tick_params(axis="x", pad=8)  # clear of a 0 in the corner
    else:
        axis.tick_params(labelbottom=False)


def _losses(axis: Axes, curves: dict[str, Curve]) -> None:
    training, held_out = curves.get("training"), curves.get("held_out")
    limits = [] if held_out is None else list(held_out.values)
    ends = []
    if training is not None:
        # a few wild batches must not press everything else together
        ordered = sorted(training.values)
        margin = len(ordered) // 100
        limits += [*training.smooth, ordered[margin], ordered[-1 - margin]]
    _scale(axis, limits)
    if training is not None:
        if training.window > 1:
            _line(axis, training.steps, training.values, TRAINED, 0.8, alpha=0.35)
        _line(axis, training.steps, training.smooth, TRAINED, 2.2)
        ends.append(End(training.steps[-1], training.smooth[-1], _end(training), TRAINED))
    if held_out is not None:
        _dotted(axis, held_out)
        ends.append(End(held_out.steps[-1], held_out.values[-1], _end(held_out), INK))
    name_ends(axis, ends)


def _end(curve: Curve) -> str:
    name = "training" if curve.name == "training" else "held-out"
    return f"{name} {figure_text(curve.smooth[-1], curve.unit)}"


def _small(axis: Axes, curve: Curve, *, exact: bool) -> None:
    _scale(axis, curve.values, zero=curve.name == "wer", ticks=3)
    if curve.name == "wer":
        _dotted(axis, curve)
    else:
        if not exact and curve.window > 1:
            _line(axis, curve.steps, curve.values, TRAINED, 0.8, alpha=0.35)
        _line(axis, curve.steps, curve.smooth, TRAINED, 1.8)
    colour = INK if curve.name == "wer" else TRAINED
    text = figure_text(curve.smooth[-1], curve.unit)
    name_ends(axis, [End(curve.steps[-1], curve.smooth[-1], text, colour)])


def _rate(axis: Axes, tuning: Tuning) -> None:
    """Draw the learning rate faintly: it explains a curve, and is not one to look at."""
    steps, rates = _thinned(
        [one.step for one in tuning.steps], [one.learning_rate for one in tuning.steps]
    )
    peak = max(rates)
    axis.set_ylim(0, peak * 1.05)
    axis.set_yticks([])
    axis.grid(visible=False)
    axis.fill_between(steps, rates, color=FROZEN, alpha=0.6, linewidth=0)
    axis.plot(steps, rates, color=CUT, linewidth=1.2)
    axis.annotate(
        f"at most {scientific(peak)}",
        (1, 0.5),
        xycoords="axes fraction",
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        color=MUTED,
    )


def _scale(axis: Axes, values: Sequence[float], *, zero: bool = False, ticks: int = 6) -> None:
    """Set limits and ticks: logarithmic where values span about a decade or more."""
    low, high = min(values), max(values)
    if not zero and low > 0 and high > _DECADE * low:
        log_axis(axis, low / 1.15, high * 1.15, ticks)
        return
    low = min(low, 0.0) if zero else low
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    axis.set_ylim(low if zero and low == 0 else low - room, high + room)
    axis.yaxis.set_major_locator(MaxNLocator(ticks))
    axis.yaxis.set_major_formatter(power)


def _line(
    axis: Axes,
    steps: Sequence[int],
    values: Sequence[float],
    colour: str,
    width: float,
    alpha: float = 1.0,
) -> None:
    x, y = _thinned(steps, values)
    if len(x) == 1:  # no line goes through one point
        axis.plot(x, y, "o", color=colour, markersize=6, clip_on=False, zorder=5)
        return
    axis.plot(x, y, color=colour, linewidth=width, alpha=alpha, solid_joinstyle="round")


def _dotted(axis: Axes, curve: Curve) -> None:
    axis.plot(curve.steps, curve.values, color=INK, linewidth=1.4, zorder=4)
    if len(curve.steps) <= _MANY:
        axis.plot(
            curve.steps,
            curve.values,
            "o",
            color=INK,
            markersize=6,
            markeredgecolor=PAPER,
            markeredgewidth=0.8,
            zorder=5,
            clip_on=False,
        )
    lowest = curve.lowest
    if 0 < lowest < len(curve.steps) - 1:
        axis.plot(
            [curve.steps[lowest]],
            [curve.values[lowest]],
            "o",
            markersize=12,
            markerfacecolor="none",
            markeredgecolor=INK,
            zorder=6,
            clip_on=False,
        )


def _resumed(axis: Axes, tuning: Tuning, *, named: bool) -> None:
    if tuning.resumed_from is None:
        return
    axis.axvline(tuning.resumed_from, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    if named:  # within the panel, clear of its title, on the side that has room
        early = tuning.resumed_from < axis.get_xlim()[1] / 2
        axis.annotate(
            "resumed",
            (tuning.resumed_from, 1),
            xycoords=axis.get_xaxis_transform(),
            xytext=(4 if early else -4, -10),
            textcoords="offset points",
            ha="left" if early else "right",
            color=MUTED,
            fontsize=10,
        )


def _thinned(
    steps: Sequence[int], values: Sequence[float]
) -> tuple[Sequence[int], Sequence[float]]:
    """Return at most ``_POINTS`` points: every n-th, and the last."""
    step = -(-len(steps) // _POINTS)
    if step <= 1:
        return steps, values
    chosen = [*range(0, len(steps) - 1, step), len(steps) - 1]
    return [steps[i] for i in chosen], [values[i] for i in chosen]
