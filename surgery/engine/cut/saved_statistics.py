"""Saved statistics, where a run names some, held to what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from surgery.architectures.base import AttentionSite
from surgery.calibration.data import CalibrationData
from surgery.calibration.statistics import CalibratedOn, Statistics
from surgery.calibration.storage import read_statistics
from surgery.engine.cut.calibrate import Calibrate
from surgery.engine.cut.plan import Plan
from surgery.errors import UsageError


def saved_statistics(
    plan: Plan,
    settings: Calibrate,
    sites: Sequence[AttentionSite],
    data: CalibrationData | None,
    on: Callable[[], CalibratedOn],
    fitted: Callable[[], str],
) -> Statistics | None:
    """Return saved statistics; ``None`` where there are none of all these blocks.

    Those that were fitted to other rows of the data held nothing out: they come back as such.

    Args:
        plan: What was asked for.
        settings: How it is to be calibrated.
        sites: The blocks.
        data: The data to calibrate on, if any is named.
        on: Describes that data; reads every recording.
        fitted: Digest of the rows of it that are fitted to.

    Raises:
        SurgeryError: The file cannot be read, or is of another model, other data or settings.
    """
    if settings.statistics is None:
        return None
    path = Path(settings.statistics)
    if not path.exists() and data is not None:
        return None
    statistics = read_statistics(path, source_sha256=plan.source.sha256())
    if data is None:
        statistics.select(sites)
        return statistics
    saved, how = statistics.data, (statistics.padding_weight, statistics.varied)
    asked = (settings.padding_weight, settings.varied and data.kind == "audio")
    if (on().samples, asked) != (saved.samples, how):
        raise UsageError(
            "The saved statistics were taken on other data, or in another way",
            where=path,
            found=_described(saved.name, *how),
            expected=_described(data.name, *asked),
            hint="leave out --calibrate to use them, or name another file",
        )
    # Blocks that the file lacks are looked at afresh, and the file then holds these.
    missing = any(site.path not in statistics.sites for site in sites)
    if missing:
        return None
    same = statistics.fitted == fitted()
    return statistics if same else replace(statistics, fitted=None)


def _described(name: str, padding_weight: float, varied: bool) -> str:
    how = ", recordings varied" if varied else ""
    return f"{name}, padding weight {padding_weight:g}{how}"
