"""Views of a tuning run that more than one renderer needs: curves, their ends, what moved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from surgery.report.model.tuning import HeldOut, Moved, Tuning

_SMOOTH = 20  # a mean is over this part of what was logged: 1 / _SMOOTH
RISE = 0.01  # nats a token: a perplexity 1 % higher
_FLOOR = 1e-6  # singular values below this share of the map's largest are rounding


@dataclass(frozen=True)
class Curve:
    """One figure followed over the steps.

    Attributes:
        name: Short identifier: ``training``, ``held_out``, ``wer``, ``penalty``, ``defect``.
        title: What it is called.
        unit: ``%``, or empty.
        steps: Optimiser steps, ascending.
        values: The figure at each; only finite ones.
        smooth: The same averaged over ``window`` logs around each; equal for a window of 1.
        window: Logs in each mean.
    """

    name: str
    title: str
    unit: str
    steps: list[int]
    values: list[float]
    smooth: list[float]
    window: int = 1

    @property
    def lowest(self) -> int:
        """Index of the lowest of the averaged values."""
        return min(range(len(self.smooth)), key=self.smooth.__getitem__)


def curves_of(tuning: Tuning) -> dict[str, Curve]:
    """Return every figure that was followed, by name, in the order they are told."""
    steps, held_out = tuning.steps, tuning.held_out
    # what single batches tell is noise; a defect and what all held-out data tells is not
    window = max(1, len(steps) // _SMOOTH)
    given = (
        ("training", "Training loss", "", [(one.step, one.loss) for one in steps], window),
        ("held_out", "Held-out loss", "", [(one.step, one.loss) for one in held_out], 1),
        ("wer", "Held-out WER", "%", [(one.step, one.wer) for one in held_out], 1),
        ("penalty", "Penalty", "", [(one.step, one.penalty) for one in steps], window),
        ("defect", "Defect", "", [(one.step, one.defect) for one in steps], 1),
    )
    found = {}
    for name, title, unit, points, size in given:
        finite = [(step, value) for step, value in points if value is not None]
        finite = sorted((step, value) for step, value in finite if math.isfinite(value))
        if finite:
            values = [value for _, value in finite]
            smooth = running_mean(values, size)
            found[name] = Curve(
                name, title, unit, [step for step, _ in finite], values, smooth, size
            )
    return found


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return means over ``window`` values around each; near the ends over those there are."""
    before, after = (window - 1) // 2, window // 2
    means = []
    for index in range(len(values)):
        near = values[max(0, index - before) : index + after + 1]
        means.append(sum(near) / len(near))
    return means


def pass_losses(tuning: Tuning) -> tuple[float, float] | None:
    """Return the mean training loss of the first and of the last pass: both over the same samples.

    ``None`` with fewer than two whole passes. Single steps are not compared: what they are of
    differs by more than what a model learns.
    """
    passes = tuning.examples_seen / tuning.samples if tuning.samples else 0.0
    if passes < 2:
        return None
    end = last_step(tuning)
    each = end / passes
    sums, counts, before = [0.0, 0.0], [0, 0], 0
    for one in sorted(tuning.steps, key=lambda one: one.step):
        for index, inside in enumerate((one.step <= each, before >= end - each)):
            if inside and math.isfinite(one.loss):
                sums[index] += one.loss * (one.step - before)
                counts[index] += one.step - before
        before = one.step
    return (sums[0] / counts[0], sums[1] / counts[1]) if all(counts) else None


def risen(tuning: Tuning) -> tuple[HeldOut, HeldOut] | None:
    """Return two looks at held-out samples between which the loss rose, the last one the later.

    The first of all looks where it rose above that, else the lowest. ``None`` where it did not
    rise, or by less than :data:`RISE`.
    """
    looks = [one for one in tuning.held_out if math.isfinite(one.loss)]
    if not looks:
        return None
    last = looks[-1]
    for earlier in (looks[0], min(looks, key=lambda one: one.loss)):
        if last.loss > earlier.loss + RISE:
            return earlier, last
    return None


def broken_steps(tuning: Tuning) -> int:
    """Return how many of the logged steps have a loss that is not finite."""
    return sum(not math.isfinite(one.loss) for one in tuning.steps)


def last_step(tuning: Tuning) -> int:
    """Return how many optimiser steps were made, as far as the logs tell."""
    logged = [one.step for one in tuning.steps] + [one.step for one in tuning.held_out]
    return max(logged, default=0)


def value_changes(maps: Iterable[Moved]) -> list[float]:
    """Return ``after / before - 1`` of the singular values of some maps, rank by rank.

    Values that were nothing but rounding before have no ratio and are left out.
    """
    found: list[float] = []
    for one in maps:
        floor = _FLOOR * max((abs(value) for value in one.before), default=0.0)
        found += [
            after / before - 1
            for before, after in zip(one.before, one.after, strict=False)
            if math.isfinite(before) and math.isfinite(after) and before > floor
        ]
    return found


@dataclass(frozen=True)
class Spread:
    """Where the middle of some values lies: their 10, 50 and 90 % quantiles."""

    low: float
    middle: float
    high: float


def spread_of(values: Sequence[float]) -> Spread | None:
    """Return the quantiles of some values; ``None`` without any."""
    ordered = sorted(values)
    if not ordered:
        return None
    return Spread(*(_quantile(ordered, q) for q in (0.1, 0.5, 0.9)))


def _quantile(ordered: Sequence[float], q: float) -> float:
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def most_moved(tuning: Tuning, most: int) -> list[Moved]:
    """Return the maps that have singular values and changed most, the most changed first."""
    chosen = [one for one in tuning.moved if one.before and one.after and math.isfinite(one.change)]
    return sorted(chosen, key=lambda one: -one.change)[:most]
