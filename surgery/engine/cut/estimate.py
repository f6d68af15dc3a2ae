"""About how long a calibrated run will take, known before it starts.

Multiplications are counted from shapes, and a moment's multiplying tells how fast this machine is.
That is right within a factor of two or so: enough to know whether to wait or to go home.
"""

from __future__ import annotations

from time import perf_counter

import torch

from surgery.calibration import held_out, witness
from surgery.calibration.data import CalibrationData
from surgery.engine.cut.calibration_run import SPILLED, CalibrationRun
from surgery.engine.cut.ranks import budget_base
from surgery.engine.cut.trials import kept_trials
from surgery.methods import Bound, Remove, UpTo

WIDTH = 1024
SECONDS = 0.2
"""How long the machine is tried."""
CHARACTERS_PER_TOKEN = 4
POSITIONS_PER_SECOND = 50  # of a Whisper's encoder
POSITIONS_TRIED = witness.RECORDINGS * 1500, witness.TOKENS
"""Positions of sound and of text that a cut is tried on at most."""
POSITIONS_HELD_OUT = held_out.WINDOWS * 1500, held_out.TOKENS
OVERHEAD = 1.6
"""What hooks, sums and reading take beside the multiplications, about; measured on Whisper base."""
SECONDS_A_WINDOW = 0.03
"""What a window takes however small the model is."""
TEXT_WINDOW = 1500  # positions, about
REFIT = 4  # passes: what layers are given, the original, the cut model before and after
SEARCHED = 4  # budgets that a search tries, mostly


def estimated_seconds(run: CalibrationRun) -> float:
    """Return about how many seconds calibrating, trying and pricing will still take."""
    if run.data is None:
        return 0.0  # nothing is run
    plan, heard = run.plan, run.data.kind == "audio"
    parameters = budget_base(plan, Remove(0.0, of="tower")) or 0
    positions = [_positions(part, run) for part in (run.dealt.fit, run.dealt.trial)]
    unseen = 0.0 if run.dealt.held_out is None else _positions(run.dealt.held_out, run)
    heard_before = run.spill is not None and run.spill.done(SPILLED)
    fit = 0.0 if run.is_saved or heard_before else positions[0]
    fit += REFIT * positions[0] * run.settings.refits
    tried = min(positions[1], POSITIONS_TRIED[not heard])
    rule = plan.options.rule
    tries = 2 + SEARCHED * isinstance(rule, Bound | UpTo)
    if run.settings.tries and not run.is_tried:
        tries += 3 * (len(run.pairs) - len(kept_trials(run.spill, run.pairs)))
    # The price: original and cut, and both once more to be transcribed.
    priced = (4 if heard else 2) * min(unseen, POSITIONS_HELD_OUT[not heard])
    passed = fit + tried * tries + priced
    window = int(plan.source.config.get("max_source_positions", TEXT_WINDOW))
    multiplied = OVERHEAD * 2.0 * parameters * passed / _speed(run.settings.device)
    return multiplied + SECONDS_A_WINDOW * passed / window


def estimate_text(seconds: float) -> str:
    """Say about how long something takes: ``about 4 minutes``."""
    if seconds < 8:
        return "some seconds"
    if seconds < 90:
        return f"about {round(seconds / 5) * 5} seconds"
    if seconds < 90 * 60:
        return f"about {round(seconds / 60)} minutes"
    return f"about {seconds / 3600:.1f} hours"


def _positions(data: CalibrationData, run: CalibrationRun) -> float:
    if data.kind == "text":
        return sum(len(each.text) for each in data.documents) / CHARACTERS_PER_TOKEN
    positions = int(run.plan.source.config.get("max_source_positions", 1500))
    window = positions / POSITIONS_PER_SECOND
    return positions * sum(max(1.0, -(-one.seconds() // window)) for one in data.recordings)


def _speed(device: str | None) -> float:
    """Return how many float32 operations a second this machine does in a product of matrices."""
    place = torch.device(device or "cpu")
    one = torch.ones(WIDTH, WIDTH, device=place)
    one @ one
    began, count = perf_counter(), 0
    while perf_counter() - began < SECONDS:
        (one @ one).sum().item()
        count += 1
    return 2.0 * WIDTH**3 * count / (perf_counter() - began)
