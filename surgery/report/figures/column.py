"""The model as a column of layers: what stays of each block, to scale, and what that costs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from surgery.architectures.base import tower_holding
from surgery.report.figures.canvas import (
    CUT,
    FROZEN,
    HAIRLINE,
    INK,
    MUTED,
    NARROW,
    NEURONS,
    PAPER,
    Picture,
    axes,
    draw,
    log_ticks,
    plain,
    power,
    whole_ticks,
)
from surgery.report.model.report import FeedForwardReport, Report
from surgery.report.text.feed_forward import (
    error_span,
    is_fitted,
    is_refitted,
    neuron_parameters,
    towers_of,
    widths_text,
)
from surgery.report.text.linears import plural
from surgery.report.text.summary import saving_named
from surgery.report.wording import count

_LEFT, _RIGHT, _MIDDLE = 34, 16, 226  # where rows begin, what is free behind, where errors begin
_HEAD, _NAME, _TICKS, _GAP = 50, 24, 26, 12
_TALL, _LEAST, _MOST = 400, 5.0, 20.0  # pixels of all rows together, and of one


@dataclass(frozen=True)
class _Tower:
    """One tower, measured in parameters.

    Attributes:
        scope: Its name.
        blocks: In layer order.
        each: Parameters that go with a neuron.
        attention: Parameters of each layer's attention, before and after, where it was cut.
    """

    scope: str
    blocks: list[FeedForwardReport]
    each: float
    attention: list[tuple[float, float]]

    @property
    def widest(self) -> float:
        return max(one.before for one in self.blocks) * self.each


def model_column(report: Report) -> list[Picture]:
    """Draw every feed-forward block to scale, a row a layer, and the errors of its output.

    Attention stands beside them where it was cut.
    """
    counted = neuron_parameters(report)
    towers = [
        _Tower(scope, blocks, counted.get(scope, 1.0), _attention(report, scope, blocks))
        for scope, blocks in towers_of(report).items()
    ]
    towers = [one for one in towers if one.widest > 0]
    if not towers:
        return []
    return [_picture(report, towers, "parameters" if counted else "neurons")]


def _attention(
    report: Report, scope: str, blocks: Sequence[FeedForwardReport]
) -> list[tuple[float, float]]:
    """Return what a layer's attention was and is, by what stays of all its vectors."""
    saving = saving_named(report, "attention")
    if saving is None or not report.sites:
        return []
    vectors = sum(2 * site.kv_heads * site.head_dim for site in report.sites)
    each, found = saving.before / vectors, dict[int, tuple[float, float]]()
    for site in report.sites:
        if tower_holding(site.scope) == scope:
            before, kept = found.get(site.layer, (0.0, 0.0))
            before += each * 2 * site.kv_heads * site.head_dim
            kept += each * (sum(site.qk.ranks) + sum(site.vo.ranks))
            found[site.layer] = before, kept
    return [found.get(block.layer, (0.0, 0.0)) for block in blocks]


def _picture(report: Report, towers: list[_Tower], unit: str) -> Picture:
    rows = sum(len(one.blocks) for one in towers)
    row = min(max(_TALL / rows, _LEAST), _MOST)
    heights = [row * len(one.blocks) for one in towers]
    height = round(_HEAD + sum(heights) + len(towers) * _NAME + (len(towers) - 1) * _GAP + _TICKS)
    errors = _errors(report)
    limits = (min(errors) / 1.5, max(errors) * 1.5) if errors else None
    widest = max(one.widest for one in towers)
    beside = max((before for one in towers for before, _ in one.attention), default=0.0)
    across = widest + beside + (0.03 * widest if beside else 0)
    end = NARROW - _MIDDLE + 24 if limits else _RIGHT

    def paint(figure: Figure) -> None:
        _key(figure, height, unit, attention=bool(beside), errors=bool(limits), report=report)
        top = float(_HEAD)
        for index, (tower, tall) in enumerate(zip(towers, heights, strict=True)):
            top += _NAME
            below = height - top - tall
            _name(figure, height, top, tower)
            left = axes(figure, _LEFT, below, end, top)
            _blocks(left, tower, across, widest)
            if limits:
                right = axes(figure, _MIDDLE, below, _RIGHT, top)
                last = index == len(towers) - 1
                _dots(right, tower, limits, refitted=is_refitted(report), labelled=last)
            top += tall + _GAP

    said = [_said(report, one, unit) for one in towers]
    caption = f"A row a layer, the first on top; widths to scale, in {unit}."
    if beside:
        caption += " Attention beside its feed-forward block."
    if limits:
        caption += " Errors on the rows that blocks were fitted to, log scale."
    title = "What stays of every layer" + (", and how far it is off" if limits else "")
    name = "column"
    alt = f"{caption} {' '.join(said)}"
    svg = draw(paint, width=NARROW, height=height, name=name, title=title, alt=alt)
    return Picture(name, title, caption, alt, svg)


def _errors(report: Report) -> list[float]:
    if not is_fitted(report):
        return []
    both = ((one.fitted_error, one.deleted_error) for one in report.feed_forward)
    return [error for pair in both for error in pair if _drawable(error)]


def _drawable(error: float) -> bool:
    return isfinite(error) and error > 0


def _said(report: Report, tower: _Tower, unit: str) -> str:
    blocks = tower.blocks
    text = f"{plain(tower.scope)}: {plural(len(blocks), 'block')} of {widths_text(blocks)} neurons"
    if unit == "parameters":
        text += f", {count(tower.each)} parameters each"
    if tower.attention:
        before, kept = (sum(some) for some in zip(*tower.attention, strict=True))
        text += f", attention {count(before)} → {count(kept)} parameters"
    if is_fitted(report):
        text += f"; error {error_span([one.fitted_error for one in blocks])}"
        if is_refitted(report):
            text += f", without refit {error_span([one.deleted_error for one in blocks])}"
    return f"{text}."


def _key(
    figure: Figure, height: int, unit: str, *, attention: bool, errors: bool, report: Report
) -> None:
    """Say above both halves what is drawn, and how."""
    axis = axes(figure, 0, height - _HEAD, 0, 0)
    axis.set_xlim(0, NARROW)
    axis.set_ylim(_HEAD, 0)
    axis.axis("off")
    title = "Parameters of a layer" if attention else f"Feed-forward {unit}"
    axis.text(_LEFT, 12, title, color=INK, va="center")
    boxes = [("stays", NEURONS, NEURONS), ("gone", PAPER, MUTED)]
    if attention:
        boxes.append(("attention", FROZEN, FROZEN))
    x = float(_LEFT)
    for text, fill, edge in boxes:
        axis.add_patch(Rectangle((x, 28), 10, 10, facecolor=fill, edgecolor=edge, linewidth=1))
        axis.text(x + 15, 33, text, color=MUTED, va="center_baseline", fontsize=10)
        x += 29 + 5.9 * len(text)
    if not errors:
        return
    axis.text(_MIDDLE, 12, "Relative error of the output", color=INK, va="center")
    marks = [("refitted", NEURONS), ("only deleted", PAPER)]
    x = float(_MIDDLE)
    for text, fill in marks if is_refitted(report) else [("only deleted", PAPER)]:
        _mark(axis, [x + 5], [33.0], fill, 6.5)
        axis.text(x + 15, 33, text, color=MUTED, va="center_baseline", fontsize=10)
        x += 32 + 5.9 * len(text)


def _mark(axis: Axes, x: Sequence[float], y: Sequence[float], fill: str, size: float) -> None:
    edge: dict[str, Any] = {"markeredgecolor": NEURONS, "markeredgewidth": 1.1}
    axis.plot(x, y, "o", markersize=size, color=fill, clip_on=False, zorder=4, **edge)


def _name(figure: Figure, height: int, top: float, tower: _Tower) -> None:
    y = 1 - (top - 10) / height
    name = plain(tower.scope)[:20]
    figure.text(_LEFT / NARROW, y, name, color=INK, weight="bold", va="center")
    figure.text(
        1 - _RIGHT / NARROW,
        y,
        plain(f"{widths_text(tower.blocks)} neurons".replace("–", "-")),
        color=MUTED,
        fontsize=10,
        ha="right",
        va="center",
    )


def _rows(axis: Axes, tower: _Tower) -> None:
    axis.set_ylim(len(tower.blocks) - 0.5, -0.5)
    axis.tick_params(length=0)
    axis.spines["left"].set_visible(False)


def _blocks(axis: Axes, tower: _Tower, across: float, widest: float) -> None:
    """Draw what stays filled, what went hollow, and attention beside it."""
    axis.set_xlim(0, across)
    _rows(axis, tower)
    axis.spines["bottom"].set_visible(False)
    axis.set_xticks([])
    pixels = axis.get_window_extent().height
    labelled = whole_ticks(len(tower.blocks), max(2, int(pixels / 17)))
    axis.set_yticks(labelled, [str(tower.blocks[tick].layer) for tick in labelled])
    for index, one in enumerate(tower.blocks):
        kept, before = one.kept * tower.each, one.before * tower.each
        lines: dict[str, Any] = {"linewidth": 0.9, "clip_on": False}
        axis.barh(index, before, 0.72, color=PAPER, edgecolor=CUT, **lines)
        axis.barh(index, kept, 0.72, color=NEURONS, edgecolor=NEURONS, **lines)
        if tower.attention:
            before, kept = tower.attention[index]
            lines["left"] = widest * 1.03
            axis.barh(index, before, 0.72, color=PAPER, edgecolor=CUT, **lines)
            axis.barh(index, kept, 0.72, color=FROZEN, edgecolor=FROZEN, **lines)


def _ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 within each decade where there is room for their names."""
    if low < 0.01 or high > 100 * low:
        return log_ticks(low, high, most=4)
    every = (factor * 10.0**exponent for exponent in range(-2, 3) for factor in (1, 2, 5))
    return [tick for tick in every if low <= tick <= high]


def _dots(
    axis: Axes, tower: _Tower, limits: tuple[float, float], *, refitted: bool, labelled: bool
) -> None:
    """Draw both errors of every block, joined by a line; ``labelled``: the ticks, below."""
    axis.set_xscale("log")
    axis.set_xlim(*limits)
    _rows(axis, tower)
    axis.set_yticks([])
    axis.set_xticks(_ticks(*limits))
    axis.set_xticks([], minor=True)
    axis.xaxis.set_major_formatter(power)
    axis.tick_params(labelbottom=labelled)
    axis.grid(axis="x")
    size = min(6.5, 0.8 * axis.get_window_extent().height / len(tower.blocks))
    kinds = [("deleted_error", PAPER), ("fitted_error", NEURONS)] if refitted else []
    for name, fill in kinds or [("deleted_error", PAPER)]:
        drawn = [(getattr(one, name), index) for index, one in enumerate(tower.blocks)]
        drawn = [(error, index) for error, index in drawn if _drawable(error)]
        _mark(axis, [x for x, _ in drawn], [float(y) for _, y in drawn], fill, size)
    for index, one in enumerate(tower.blocks):
        both = one.fitted_error, one.deleted_error
        if refitted and all(map(_drawable, both)):
            axis.plot(both, [index, index], color=HAIRLINE, linewidth=1.2, zorder=2)
