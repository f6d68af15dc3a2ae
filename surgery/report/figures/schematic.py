"""How a method computes, as a picture of its matrices: grey is frozen, blue is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from surgery.report.figures.canvas import (
    FROZEN,
    INK,
    MUTED,
    NARROW,
    TRAINED,
    Picture,
    axes,
    draw,
)
from surgery.report.model.report import Report
from surgery.report.text.linear_words import words
from surgery.report.text.linears import size_text

_HEIGHT = 172
_LONGEST = 104.0  # pixels of the longer side of the weight
_LEAST = 2.5  # of a sliver, so that it can be seen
_MIDDLE = 84.0
_GAP = 12.0


@dataclass
class _Pen:
    """Draws boxes from left to right, centred on one line; one unit is one pixel."""

    axis: Axes
    at: float = 10.0

    def box(self, width: float, height: float, colour: str, label: str, below: str = "") -> None:
        corner = (self.at, _MIDDLE - height / 2)
        dashed = {"edgecolor": MUTED, "linestyle": (0, (3, 3)), "linewidth": 1.0}
        style = dashed if colour == "none" else {"linewidth": 0.0}
        self.axis.add_patch(Rectangle(corner, width, height, facecolor=colour, **style))
        self.name(self.at + width / 2, label, below)
        self.at += width + _GAP

    def name(self, x: float, label: str, below: str = "") -> None:
        self.axis.text(x, 152, label, ha="center", va="center", color=INK)
        self.axis.text(x, 14, below, ha="center", va="center", color=MUTED, fontsize=9.5)

    def sign(self, text: str) -> None:
        self.axis.text(self.at + 5, _MIDDLE, text, ha="center", va="center", color=INK, fontsize=14)
        self.at += 10 + _GAP


@dataclass(frozen=True)
class _Shape:
    """The weight that is drawn: features, pixels of each side, rank or reflections."""

    out: int
    inputs: int
    size: int

    @property
    def rows(self) -> float:
        return _LONGEST * self.out / max(self.out, self.inputs)

    @property
    def columns(self) -> float:
        return _LONGEST * self.inputs / max(self.out, self.inputs)

    def sliver(self, numbers: int) -> float:
        return max(_LONGEST * numbers / max(self.out, self.inputs), _LEAST)


def _in_front(pen: _Pen, shape: _Shape) -> None:
    """Draw ``W′ = W ·``: what every map in front begins with."""
    pen.box(shape.columns, shape.rows, "none", "W′", f"{shape.out} × {shape.inputs}")
    pen.sign("=")
    pen.box(shape.columns, shape.rows, FROZEN, "W", "as it was")
    pen.sign("·")


def _residual(pen: _Pen, shape: _Shape) -> None:
    """Draw ``W = residual +``: what every split begins with."""
    pen.box(shape.columns, shape.rows, "none", "W", f"{shape.out} × {shape.inputs}")
    pen.sign("=")
    pen.box(shape.columns, shape.rows, FROZEN, "residual", "as large")
    pen.sign("+")


def _sorsa(pen: _Pen, shape: _Shape) -> None:
    side = shape.sliver(shape.size)
    _residual(pen, shape)
    pen.box(side, shape.rows, TRAINED, "U")
    pen.box(side, side, TRAINED, "S", f"rank {shape.size}")
    pen.box(shape.columns, side, TRAINED, "Vᵀ")


def _pissa(pen: _Pen, shape: _Shape) -> None:
    side = shape.sliver(shape.size)
    _residual(pen, shape)
    pen.box(side, shape.rows, TRAINED, "B", f"rank {shape.size}")
    pen.box(shape.columns, side, TRAINED, "A")


def _hra(pen: _Pen, shape: _Shape) -> None:
    _in_front(pen, shape)
    start, shown = pen.at, min(shape.size, 8)
    for index in range(shown):
        pen.axis.add_patch(
            Rectangle((pen.at, _MIDDLE - _LONGEST / 2), 5, _LONGEST, facecolor=TRAINED, linewidth=0)
        )
        pen.at += 8 if index % 2 == 0 else 18
    dots = " …" if shape.size > shown else ""
    end = pen.at - 18
    pen.axis.text(end + 6, _MIDDLE, dots, va="center", color=MUTED)
    pen.name((start + end) / 2, "H", f"{shape.size} mirrors, in pairs")


def _rotations(pen: _Pen, shape: _Shape) -> None:
    """Draw the stages on eight inputs: pairs at stride 1, 2 and 4."""
    _in_front(pen, shape)
    left, step, wires = pen.at, 11.0, 8
    top = _MIDDLE + step * (wires - 1) / 2
    right = left + 136
    for wire in range(wires):
        y = top - step * wire
        pen.axis.plot([left, right], [y, y], color=FROZEN, linewidth=1.5, zorder=1)
    x = left + 14.0
    for stride in (1, 2, 4):
        for first in range(0, wires, 2 * stride):
            upper, lower = top - step * first, top - step * (first + stride)
            pen.axis.plot([x, x], [upper, lower], color=TRAINED, linewidth=2, zorder=2)
            pen.axis.plot([x, x], [upper, lower], "o", color=TRAINED, markersize=5, zorder=3)
        pen.axis.text(x, top + 11, str(stride), ha="center", va="center", color=MUTED, fontsize=9.5)
        x += 54
    pen.name((left + right) / 2, "Rᵀ", f"{shape.inputs - 1:,} pairs, by stride")


def _cores(pen: _Pen, shape: _Shape) -> None:
    """Draw ``W′ = C Q``, C a square block for each of four heads."""
    pen.box(shape.columns, shape.rows, "none", "W′", f"{shape.out} × {shape.inputs}")
    pen.sign("=")
    left, side = pen.at, shape.rows / 4
    pen.box(shape.rows, shape.rows, "none", "C", "behind each head")
    for head in range(4):
        corner = (left + head * side, _MIDDLE + shape.rows / 2 - (head + 1) * side)
        pen.axis.add_patch(Rectangle(corner, side, side, facecolor=TRAINED, linewidth=0))
    pen.sign("·")
    pen.box(shape.columns, shape.rows, FROZEN, "Q", "orthonormal")


def _diagonal(pen: _Pen, shape: _Shape) -> None:
    """Draw ``W′ = S Q``, S a diagonal."""
    pen.box(shape.columns, shape.rows, "none", "W′", f"{shape.out} × {shape.inputs}")
    pen.sign("=")
    left, half = pen.at, shape.rows / 2
    pen.box(shape.rows, shape.rows, "none", "S", "behind each head")
    ends = [left, left + shape.rows], [_MIDDLE + half, _MIDDLE - half]
    pen.axis.plot(*ends, color=TRAINED, linewidth=2.5)
    pen.sign("·")
    pen.box(shape.columns, shape.rows, FROZEN, "Q", "orthonormal")


_PAINTERS: dict[str, Callable[[_Pen, _Shape], None]] = {
    "sorsa": _sorsa,
    "pissa": _pissa,
    "hra": _hra,
    "goft": _rotations,
    "qgoft": _rotations,
    "core": _cores,
    "diagonal": _diagonal,
}


def schematic(report: Report) -> list[Picture]:
    """Draw the matrices of the commonest shape, to scale, as the method multiplies them."""
    paint_method = _PAINTERS.get(report.method)
    shapes = Counter(
        (one.out_features, one.in_features)
        for one in report.linears
        if one.out_features and one.in_features
    )
    if paint_method is None or not shapes:
        return []
    (out, inputs), _ = shapes.most_common(1)[0]
    size = next((len(one.spectrum) for one in report.linears if one.spectrum), None)
    if size is None:
        text = size_text(report)
        size = int(text) if text.isdecimal() else 2
    shape = _Shape(out, inputs, size)

    def paint(figure: Figure) -> None:
        axis = axes(figure, 0, 0, 0, 0)
        axis.set_xlim(0, NARROW)
        axis.set_ylim(0, _HEIGHT)
        axis.axis("off")
        paint_method(_Pen(axis), shape)

    told = words(report.method)
    scale = " Drawn to scale." if told.splits else ""
    title = "A weight, and what is put to it"
    caption = f"Grey is frozen, blue is trainable.{scale}"
    name = "schematic"
    alt = f"{told.frozen} {told.trained} {caption}"
    svg = draw(paint, width=NARROW, height=_HEIGHT, name=name, title=title, alt=alt)
    return [Picture(name, title, caption, alt, svg)]
