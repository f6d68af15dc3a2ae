"""How figures are written for people: counts, amounts with units, changes, errors."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, log10

# smallest value written in the unit (so that 999,960 is 1 M, not 1e+03 k), scale, symbol
_UNITS = (
    (0.9995e15, 1e15, "P"),
    (0.9995e12, 1e12, "T"),
    (0.9995e9, 1e9, "G"),
    (0.9995e6, 1e6, "M"),
    (1e4, 1e3, "k"),
)


def count(value: float) -> str:
    """Write a count in three or four digits: ``1.54 G``, ``83.9 M``, ``71.0 M``, ``512``."""
    for limit, scale, unit in _UNITS:
        if abs(value) >= limit:
            scaled = value / scale
            # zeros at the end are kept: 72.6 and 71 do not look like equally exact figures
            text = f"{scaled:#.3g}".rstrip(".") if abs(scaled) < 999.5 else f"{scaled:,.0f}"
            return f"{text} {unit}"
    whole = float(value).is_integer() or abs(value) >= 999.5
    return f"{value:,.0f}" if whole else f"{value:.3g}"


def amount(value: float, unit: str) -> str:
    """Write a value with its unit: bytes as MB and GB (powers of ten), FLOPs as GFLOPs."""
    if unit == "bytes":
        return _joined(count(value), "B")
    if unit == "FLOPs":
        return _joined(count(value), "FLOPs")
    if unit == "%":
        return f"{value:.2f} %"
    number = f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return f"{number} {printable(unit)}".rstrip()


def _joined(number: str, unit: str) -> str:
    """Put a unit behind a number that may end in a prefix: ``3.1 GB``, ``512 B``."""
    return number + unit if number[-1].isalpha() else f"{number} {unit}"


def change(before: float, after: float) -> str:
    """Write a relative change: ``−46.4 %``, ``+3.1 %``, ``0 %``; em dash without a base."""
    if not before:
        return "—" if after else "0 %"
    fraction = after / before - 1
    if fraction == 0:
        return "0 %"
    size = 100 * abs(fraction)
    text = f"{size:.1f}" if size >= 0.1 else f"{size:.1g}"
    return ("−" if fraction < 0 else "+") + text + " %"


def percent(fraction: float) -> str:
    """Write a fraction as a percentage: ``46.4 %``; none is rounded to 0 or 100."""
    size = 100 * abs(fraction)
    text = f"{size:.1f}" if size >= 0.1 else f"{size:.1g}"
    if text == "100.0":
        rest = abs(100 - size)
        text = f"{size:.{ceil(-log10(rest))}f}" if rest else "100"
    return ("−" if fraction < 0 else "") + text + " %"


def scientific(value: float) -> str:
    """Write an error: ``0.262`` or ``3.1e-15``."""
    if value == 0:
        return "0"
    return f"{value:#.3g}" if value >= 1e-3 else f"{value:.1e}"


def ranges(numbers: Iterable[int]) -> str:
    """Write integers as ranges: ``0–3, 7``."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in spans)


def capitalised(text: str) -> str:
    """Return text with its first letter as a capital, the others as they are."""
    return text[:1].upper() + text[1:]


def printable(text: str) -> str:
    """Return text on one line without control characters, which terminals would obey."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)
