"""The visual language every picture shares: colours, sizes, and the way to SVG.

Colours are Okabe and Ito's, told apart by readers with any colour vision; QK is always blue,
VO always orange, what was cut always grey; what is trained is blue, what is frozen grey; neurons of
feed-forward blocks are green. Layouts have colours of their own, which neither pair has. One unit
of a figure is one CSS pixel at the size it was designed for; the page scales it.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

INK = "#24292f"
MUTED = "#646c76"
HAIRLINE = "#d5d8dc"
CUT = "#a9aeb4"
PAPER = "#ffffff"
PAIR_COLOURS = {"qk": "#0072b2", "vo": "#d55e00"}
PAIR_TITLES = {"qk": "Q·K", "vo": "V·O"}
PART_COLOURS = {"attention": "#0072b2", "ffn": "#00684e", "layers": "#8a6100", "all": INK}
LAYOUT_COLOURS = {"ragged": "#007a5a", "block": "#a04a86", "tied": "#5b5f66", "model": "#8a6100"}
KEPT_MAP = LinearSegmentedColormap.from_list(
    "kept", ["#f6f2e9", "#cfdcdc", "#8fb7c9", "#4a87ad", "#1f5785", "#0d2b4d"]
)
TRAINED = "#0072b2"
FROZEN = "#d9dcdf"
NEURONS = "#00684e"
DEPTH_MAP = LinearSegmentedColormap.from_list(
    "depth", ["#a9cfe3", "#4a9cc7", "#1f6aa5", "#0d2b4d"]
)  # first layer light, last dark; the lightest still seen as a line on white

NARROW = 460  # half of the page's text width
WIDE = 960  # all of it
PHONE = 380  # a phone's

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # real text: searchable, selectable, small
    "text.parse_math": False,  # a dollar sign is a dollar sign
    "axes.unicode_minus": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": HAIRLINE,
    "xtick.color": HAIRLINE,
    "ytick.color": HAIRLINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#eceef0",
    "grid.linewidth": 1,
    "hatch.linewidth": 0.8,
}


@dataclass(frozen=True)
class Picture:
    """One picture with everything a page needs to place it.

    Attributes:
        name: Short identifier, unique within a report.
        title: What it shows.
        caption: How to read it, one or two sentences.
        alt: The same for who cannot see it, with the figures that matter.
        svg: A complete SVG element.
        wide: Whether it wants the page's full width.
        small: The same for a narrow screen, where ``svg`` would have to be moved to be seen.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    wide: bool = False
    small: str = ""


def draw(
    paint: Callable[[Figure], None], *, width: int, height: int, name: str, title: str, alt: str
) -> str:
    """Paint a figure of ``width`` by ``height`` pixels and return it as an SVG element.

    ``name`` makes the identifiers inside unique, so that many pictures share one page. The
    same report gives the same bytes.
    """
    style: Any = {**_STYLE, "svg.hashsalt": name}
    with mpl.rc_context(style):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor=PAPER)
        figure.set_layout_engine("none")
        paint(figure)
        stream = io.StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(stream, metadata={"Date": None, "Creator": None})
    return _embeddable(stream.getvalue(), name, title, alt)


def _embeddable(svg: str, name: str, title: str, alt: str) -> str:
    """Turn matplotlib's document into an element: unique ids, a title, no fixed size.

    Hundredths of a pixel are the finest that is kept: more is a third of a page, and unseen.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<g) id="[a-zA-Z_]+\.?[a-zA-Z_]*\d+"', r"\1", svg)  # element names nobody uses
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    svg = svg.replace('xlink:href="#', f'href="#{name}-').replace("xlink:href=", "href=")
    svg = svg.replace("font-family: 'DejaVu Sans'", "font-family: system-ui, 'DejaVu Sans'")
    svg = re.sub(r"\n\s*", "\n", svg)
    svg = re.sub(r'\b(?:d|x|y)="[^"]*"', lambda each: re.sub(r"(\.\d\d)\d+", r"\1", each[0]), svg)
    view = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">") + 1 :]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {view.group() if view else ""} width="100%" '
        f'role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(alt)}</desc>'
    )
    return head + body.strip()


def identifier(*parts: str) -> str:
    """Join parts into a name that is safe as an XML id, whatever they hold."""
    return "-".join(re.sub(r"[^a-z0-9]+", "", part.lower()) or "x" for part in parts)


def plain(text: str) -> str:
    """Return a label without anything a font cannot draw or a reader cannot see."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)[:40]


def axes(
    figure: Figure, left: float, bottom: float, right: float, top: float, **options: Any
) -> Axes:
    """Add axes with margins given in pixels from the figure's edges."""
    width, height = figure.get_size_inches() * 72
    made: Axes = figure.add_axes(
        (
            left / width,
            bottom / height,
            (width - left - right) / width,
            (height - bottom - top) / height,
        ),
        **options,
    )
    return made


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(value: float, _position: object = None) -> str:
    """Label a tick of a logarithmic axis: plain from 0.01 to 100, a power of ten beyond."""
    if value <= 0:
        return "0"
    exponent = math.floor(math.log10(value) + 1e-9)
    mantissa = value / 10**exponent
    if -2 <= exponent <= 2:
        return f"{value:g}"
    tens = "10" + str(exponent).translate(_SUPERSCRIPT)
    return tens if abs(mantissa - 1) < 1e-6 else f"{mantissa:.2g}·{tens}"


def percent(value: float, _position: object = None) -> str:
    """Label a tick that is a fraction."""
    size = 100 * value
    return f"{size:,.0f} %" if abs(size) >= 999.5 else f"{size:.3g} %"


def change_tick(value: float, _position: object = None) -> str:
    """Label a tick that is a relative change, with its sign."""
    return ("+" if value > 0 else "") + percent(value).replace("-", "−")


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return powers of ten within ``[low, high]``, thinned to at most ``most``."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    step = max(1, math.ceil((last - first + 1) / most))
    ticks = [10.0**exponent for exponent in range(first, last + 1, step)]
    if len(ticks) < 2:
        # less than two decades: 1, 2 and 5 within each
        ticks = [
            factor * 10.0**exponent
            for exponent in range(first - 1, last + 2)
            for factor in (1, 2, 5)
            if low <= factor * 10.0**exponent <= high
        ]
    return ticks


def log_axis(axis: Axes, low: float, high: float, most: int = 6, *, labelled: bool = True) -> None:
    """Make the way up logarithmic, from ``low`` to ``high``; ticks as :func:`log_ticks`."""
    axis.set_yscale("log")
    axis.set_ylim(low, high)
    axis.set_yticks(log_ticks(low, high, most))
    axis.set_yticks([], minor=True)
    axis.yaxis.set_major_formatter(power if labelled else "")


def whole_ticks(count: int, most: int = 9) -> list[int]:
    """Return evenly spaced indices below ``count``, in steps people count in."""
    step = next(s for s in (1, 2, 4, 5, 8, 10, 16, 20, 50, 100, 1000) if count / s <= most)
    return list(range(0, count, step))
