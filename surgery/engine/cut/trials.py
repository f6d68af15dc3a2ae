"""Cutting every pair on trial, and keeping each result as it comes: a resumed run goes on there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from surgery.calibration.sensitivity import Trials, Tried, measure_sensitivities
from surgery.calibration.statistics import Statistics
from surgery.engine.cut.calibration_run import CalibrationRun
from surgery.engine.cut.decompose import Spill
from surgery.methods import SeamName, SiteDecomposition

TRIED = "tried"
"""Name of the one tensor of a kept trial, float64, (cuts, 2): share of energy dropped, damage."""


def make_trials(run: CalibrationRun, decompositions: Mapping[str, SiteDecomposition]) -> Trials:
    """Return what cutting every pair on trial did: saved or kept, else measured now.

    Args:
        run: The calibration; its statistics hold the trials afterwards.
        decompositions: How each block would be cut, by its path.
    """
    saved = run.statistics
    # Trials of more blocks than these may have compared another output.
    if run.tried(saved) and (run.data is None or saved.output == run.compared):
        return {key: saved.trials[key] for key in run.pairs}
    of_these = replace(saved, ridge=run.settings.ridge, output=run.witness.output)
    found = _known(saved, run) | kept_trials(run.spill, run.pairs)

    def keep(path: str, pair: SeamName, tried: Tried) -> None:
        found[path, pair] = tried
        if run.spill is not None:
            run.spill.spill(trial_key(path, pair), {TRIED: _tensor(tried)})

    try:
        trials = measure_sensitivities(
            run.witness, run.sites, decompositions, run.progress, dict(found), keep
        )
    except BaseException:
        # Trials at another ridge, or that compared another output, are not given up for some.
        same = (saved.ridge, saved.output) == (of_these.ridge, of_these.output)
        if found and (same or not saved.trials):
            run.keep(replace(of_these, trials={**saved.trials, **found}))
        raise
    run.keep(replace(of_these, trials=trials))
    return trials


def kept_trials(spill: Spill | None, pairs: Sequence[tuple[str, SeamName]]) -> Trials:
    """Return the trials that an interrupted run left, of those that are whole."""
    found: Trials = {}
    for path, pair in pairs if spill is not None else ():
        key = trial_key(path, pair)
        if spill is not None and spill.done(key):
            kept = spill.unspill(key).get(TRIED)
            if kept is not None and kept.dtype == torch.float64 and kept.shape[1:] == (2,):
                found[path, pair] = [(dropped, damage) for dropped, damage in kept.tolist()]
    return found


def trial_key(path: str, pair: SeamName) -> str:
    """Return under which key the trials of a pair are kept."""
    return f"trial:{path}:{pair}"


def _tensor(tried: Tried) -> Tensor:
    return torch.tensor(tried, dtype=torch.float64).reshape(-1, 2)


def _known(saved: Statistics, run: CalibrationRun) -> Trials:
    """Return the trials of a file of statistics that are some of those to be made."""
    if saved.ridge != run.settings.ridge or saved.output != run.witness.output:
        return {}
    return {key: saved.trials[key] for key in run.pairs if key in saved.trials}
