"""Made-up but plausible reports of calibrated runs: Whisper, LLaMA with RoPE, and a look before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from surgery.report.model.calibration import (
    Calibration,
    PartPrices,
    Price,
    SearchStep,
    Sensitivity,
)
from surgery.report.model.report import Report
from surgery.report.text.summary import saving_named
from tests.report.factory import HOSTILE, hostile_report, make_report

# error at a quarter and at a half removed: the curve between is about a power
CURVES = {"ragged": (0.081, 0.27), "block": (0.11, 0.33), "tied": (0.20, 0.46)}
MEASURED = (0.125, 0.25, 0.375, 0.5)


def calibrated(size: str, *, inspect: bool = False, leaked: int = 0) -> Report:
    """Build a calibrated report of ``size``; ``inspect``: no budget was asked for."""
    report = make_report(size, inspect=inspect, frequencies=True)
    rng = np.random.default_rng(11)
    text = size == "llama"
    saving = saving_named(report, "attention")
    assert saving is not None
    own = saving.removed
    prices = [
        _price(rng, layout, fraction, 0.15 if text else 1.0)
        for layout in CURVES
        for fraction in np.linspace(0.025, 0.6, 24)
    ]
    predicted = _error("ragged", own) * (0.15 if text else 1.0)
    calibration = Calibration(
        data="tinystories/calib.txt" if text else "speech/calib",
        samples=128 if text else 10,
        queries=65_536.0 if text else 11_842.7,
        output="next token" if text else "encoder output",
        unit="nat/token" if text else "relative",
        padding_weight=0.0 if text else 0.05,
        ridge=1e-3,
        statistics="3f" * 32,
        sensitivities=_sensitivities(rng, report),
        prices=prices,
        parts=_parts() if inspect else None,
        predicted=predicted,
        measured=None if inspect else predicted * 1.08,
        bound=None if inspect else "max_ppl_increase" if text else "max_wer_increase",
        search=[] if inspect else _search(own),
        leaked=leaked,
    )
    rule = {"max_ppl_increase": 0.01} if text else {"max_wer_increase": 1.0}
    options = {"layout": "ragged", "scope": report.options["scope"], "pairs": ["qk", "vo"]}
    if not inspect:
        options |= rule
    command = f"{report.command} --calibrate ./{calibration.data}"
    sites = [
        replace(site, qk=replace(site.qk, threshold=None), vo=replace(site.vo, threshold=None))
        for site in report.sites
    ]
    return replace(
        report,
        calibration=calibration,
        options=options,
        preset=None,
        sites=sites,
        command=command,
    )


def hostile_calibration() -> Report:
    """A calibrated report whose every free-text field tries to break out of its page."""
    report = hostile_report()
    calibration = calibrated("tiny", leaked=1).calibration
    assert calibration is not None
    return replace(
        report,
        calibration=replace(
            calibration,
            data=HOSTILE,
            output=HOSTILE,
            unit=HOSTILE,
            statistics=HOSTILE,
            bound=HOSTILE,
            prices=[replace(price, layout=HOSTILE) for price in calibration.prices[:24]],
            sensitivities=[
                replace(one, path=report.sites[0].path) for one in calibration.sensitivities[:2]
            ],
        ),
    )


def _error(layout: str, removed: float) -> float:
    quarter, half = CURVES[layout]
    return float(quarter * (removed / 0.25) ** np.log2(half / quarter))


def _price(rng: np.random.Generator, layout: str, removed: float, scale: float) -> Price:
    error = _error(layout, removed) * scale
    measured = error * float(rng.normal(1.06, 0.05))
    there = any(abs(removed - point) < 1e-9 for point in MEASURED)
    return Price(layout, float(removed), error, measured if there else None)


def _parts() -> PartPrices:
    points = [("attention", 0.05, 0.08), ("attention", 0.1, 0.29), ("layers", 0.1, 0.93)]
    points += [
        (part, share, scale * share**1.6)
        for part, scale in (("ffn", 5.0), ("all", 4.0))
        for share in (0.05, 0.1, 0.15, 0.2, 0.3)
    ]
    return PartPrices("next token", "nat/token", [Price(*point) for point in points])


def _sensitivities(rng: np.random.Generator, report: Report) -> list[Sensitivity]:
    dropped = [0.01, 0.03, 0.1]
    last = max(site.layer for site in report.sites)
    return [
        Sensitivity(
            site.path,
            pair,
            dropped,
            [
                float(share * scale * np.exp(-2 * site.layer / last) * rng.lognormal(0, 0.3))
                for share in dropped
            ],
        )
        for site in report.sites
        for pair, scale in (("qk", 0.05), ("vo", 0.4))
    ]


def _search(own: float) -> list[SearchStep]:
    tried = ((0.5, 3.52, False), (0.25, 0.2, True), (0.375, 1.4, False), (own, 0.65, True))
    return [SearchStep(*step) for step in tried]
