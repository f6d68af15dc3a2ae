"""From what was given on the command line to the library's options of a cut."""

from __future__ import annotations

from typing import Any

from surgery.choices.common import SHIPPED
from surgery.choices.where import Where
from surgery.engine.cut.calibrate import Calibrate
from surgery.engine.cut.options import Options
from surgery.errors import UsageError
from surgery_cli.options import given_flags, values

KINDS = (Where, Options, Calibrate)
"""What the commands that plan a cut take their options from."""

_OF_DATA = ("samples", "padding_weight", "varied", "language", "device")


def make_options(given: dict[str, Any]) -> Options:
    """Return the library's options.

    Raises:
        UsageError: Rules contradict each other, a pair is unknown, or settings say how statistics
            are taken, and saved ones are to be used.
    """
    rule = Where(**values(Where, given)).rule()
    return Options(rule=rule, calibrate=_calibrate(given), **values(Options, given))


def _calibrate(given: dict[str, Any]) -> Calibrate | None:
    """Return the settings; ``None`` where nothing is said of calibration."""
    flags = given_flags(Calibrate, given)
    if not flags:
        return None
    stray = [flags[name] for name in _OF_DATA if name in flags]
    if "data" not in flags and "statistics" in flags and stray:
        raise UsageError(
            f"{stray[0]} says how statistics are taken, and saved ones are to be used",
            hint="give --calibrate DIR|FILE, or leave it out",
        )
    said = values(Calibrate, given)
    return Calibrate(**(said if {"data", "statistics"} & {*flags} else {**said, "data": SHIPPED}))
