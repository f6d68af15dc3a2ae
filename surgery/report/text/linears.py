"""How linear maps with small trainable parts are told to people: figures and sentences.

What the page, the card and the screen show of them is worded here once. A figure that was
not computed is an em dash everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from surgery.report.model.report import Report, Trainable
from surgery.report.text.linear_views import trainable_of
from surgery.report.text.linear_words import words
from surgery.report.text.roles import worst
from surgery.report.wording import change, count, percent, scientific

DASH = "—"
_EXACT = 1e-5  # below it, the difference is the last digits of float32
_CLOSE = 1e-2  # below it, a half-precision cast explains the difference


def share_text(value: float | None) -> str:
    """Write a share of energy: ``81.2 %``; never a rounded-up ``100.0 %``."""
    if value is None:
        return DASH
    if 0.9995 <= value < 1 - 1e-12:
        return "> 99.9 %"
    return percent(value)


def span_text(values: Sequence[float]) -> str:
    """Write the range of some shares: ``61.2–93.4 %``."""
    if not values:
        return DASH
    low, high = share_text(min(values)), share_text(max(values))
    return low if low == high else f"{low.removesuffix(' %')}–{high}".replace("–> ", "–")


def shortfall_text(value: float | None) -> str:
    """Write a certified bound: ``≤ 0.02 %``."""
    return DASH if value is None else f"≤ {percent(max(value, 0.0))}"


def error_text(value: float | None) -> str:
    """Write an error, or a dash where it was not measured."""
    return DASH if value is None else scientific(value)


def extent(values: Iterable[int]) -> str:
    """Write the range of some whole numbers: ``64–128``, or the one there is."""
    ordered = sorted(set(values))
    return f"{ordered[0]}–{ordered[-1]}" if len(ordered) > 1 else f"{ordered[0]}"


def plural(number: int, noun: str) -> str:
    """Count a noun: ``1 linear map``, ``24 linear maps``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size_text(report: Report) -> str:
    """Return the rank or number of reflections: as found in the spectra, else as asked for."""
    ranks = {len(linear.spectrum) for linear in report.linears if linear.spectrum}
    if ranks:
        return extent(ranks)
    asked = report.options.get(words(report.method).size)
    return DASH if asked is None else str(asked)


def adopted(report: Report) -> bool:
    """Whether the small parts come from elsewhere, trained."""
    return "adapter" in report.options


def treated(report: Report) -> str:
    """Say what was done to how many maps: ``Split 24 linear maps at rank 128``."""
    if adopted(report):
        return f"Took over an adapter of {plural(len(report.linears), 'linear map')}"
    told = words(report.method)
    template = told.would if report.output is None else told.did
    return template.format(maps=plural(len(report.linears), "linear map"), size=size_text(report))


def start_text(report: Report) -> str:
    """Say how far the function is from the original's before anything is trained."""
    if adopted(report):
        return "the function is that of the model with its adapter"
    if report.output is None:
        return "the function would start unchanged"
    found = worst(report.linears, "start_error")
    if found is None:
        return "by construction the function starts unchanged, but for rounding"
    error = found[0]
    told = f"(worst {words(report.method).compared} difference {scientific(error)})"
    if error == 0:
        return "the function is unchanged at the start (no weight differs)"
    if error <= _EXACT:
        return f"the function is unchanged at the start {told}"
    if error <= _CLOSE:
        return f"but for rounding, the function is unchanged at the start {told}"
    return f"the weights do not start as they were {told}"


def start_tone(report: Report) -> str:
    """Return ``good`` where the start is the original, ``bad`` where it is not, else empty."""
    found = worst(report.linears, "start_error")
    if found is None:
        return ""
    return "good" if found[0] <= _EXACT else "" if found[0] <= _CLOSE else "bad"


def linear_sentence(report: Report) -> str:
    """Say in one sentence what was done, how much is trainable, and where it starts."""
    verb = "would be" if report.output is None else "are"
    total = report.trainable
    if total is None:
        numbers = f"{count(trainable_of(report.linears))} parameters {verb} trainable"
    else:
        numbers = (
            f"{count(total.trainable)} of {count(total.total)} parameters "
            f"({percent(total.share)}) {verb} trainable"
        )
    return f"{treated(report)}: {numbers}; {start_text(report)}."


def growth_text(trainable: Trainable, *, dry: bool) -> str:
    """Say plainly what becomes of the file: it grows, since nothing is taken away."""
    before, after = trainable.bytes_before, trainable.bytes_after
    if after > before:
        verb = "would grow" if dry else "grows"
        return (
            f"The file {verb} by {change(before, after).lstrip('+')}: every weight keeps its "
            "shape, and the small parts come on top, in float32. Merging makes it as small as "
            "it was."
        )
    if after < before:
        verb = "would shrink" if dry else "shrinks"
        size = change(before, after).lstrip("−")
        return f"The file {verb} by {size}: it is written in fewer bytes a number."
    return "The file keeps its size."
