"""Where the texts and dots of a drawn picture are, as a browser would place them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import cache
from itertools import combinations

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

_SVG = "{http://www.w3.org/2000/svg}"
_ACROSS, _DOWN = 4.0, 2.0  # pixels between two texts, at the least
_ASCENT, _DESCENT = 0.74, 0.02  # of the size: capitals and digits


@dataclass(frozen=True)
class Box:
    """One text and the rectangle that its letters fill."""

    text: str
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether two rectangles overlap, or leave no room to tell them apart."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return across > -_ACROSS and down > -_DOWN


def size_of(svg: str) -> tuple[float, float]:
    """Return width and height of a picture."""
    _, _, width, height = map(float, str(ET.fromstring(svg).get("viewBox")).split())
    return width, height


def texts(svg: str) -> list[Box]:
    """Return every text of a picture; those that stand upright as they stand."""
    return [_box(one) for one in ET.fromstring(svg).iter(f"{_SVG}text") if (one.text or "").strip()]


@cache
def _width(text: str, size: float, *, bold: bool) -> float:
    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return float(TextPath((0, 0), text, size=size, prop=font).get_extents().width)


def _box(one: ET.Element) -> Box:
    text, style = str(one.text).strip(), str(one.get("style"))
    found = re.search(r"font(?:-size)?:[^;]*?([\d.]+)px", style)
    assert found, style
    size = float(found[1])
    heavy = re.search(r"font-weight: (?:700|bold)|font: (?:700|bold)", style)
    wide = _width(text, size, bold=heavy is not None)
    x, y = float(str(one.get("x"))), float(str(one.get("y")))
    anchor = re.search(r"text-anchor: (\w+)", style)
    before = {"start": 0.0, "middle": wide / 2, "end": wide}[anchor[1] if anchor else "start"]
    up, down = _ASCENT * size, _DESCENT * size
    if "rotate(-90" in str(one.get("transform")):
        return Box(text, x - up, y - wide + before, x + down, y + before)
    return Box(text, x - before, y - up, x - before + wide, y + down)


def collisions(svg: str) -> list[tuple[str, str]]:
    """Return the pairs of texts that lie over each other."""
    found = ((a, b) for a, b in combinations(texts(svg), 2) if a.meets(b))
    return [(a.text, b.text) for a, b in found]


def cut_off(svg: str) -> list[str]:
    """Return the texts that reach beyond the picture."""
    width, height = size_of(svg)
    return [
        box.text
        for box in texts(svg)
        if box.left < -1 or box.top < -1 or box.right > width + 1 or box.bottom > height + 1
    ]


def dots(svg: str, colour: str) -> list[tuple[float, float]]:
    """Return the places of the markers of one colour."""
    marks = ET.fromstring(svg).iter(f"{_SVG}use")
    return [
        (float(str(one.get("x"))), float(str(one.get("y"))))
        for one in marks
        if f"fill: {colour}" in str(one.get("style"))
    ]
