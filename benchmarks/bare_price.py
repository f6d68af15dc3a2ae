"""Does the price that a bare command tells hold on other input than the package's own?

    python benchmarks/bare_price.py MODEL DATA [DATA ...] [--limit N] [--keep DIR]

Runs ``surgery absorb-decompose MODEL`` with nothing else said: calibrated and priced on what comes
with the package. Then evaluates model and result on each DATA, a folder of recordings or a file of
running text, and prints both prices side by side, with the 95 % intervals of paired differences.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import surgery
from surgery.evaluation.bootstrap import Estimate
from surgery.evaluation.results import Evaluation, Row
from surgery.report.model.calibration import HeldOut

DIGITS = {"wer": 1, "perplexity": 2, "encoder_error": 3, "kl_divergence": 3}


def told(found: HeldOut) -> str:
    """Return a held-out price in one line of the table."""
    parts = [f"error {found.error.value:.3f} ({found.error.low:.3f} to {found.error.high:.3f})"]
    if found.before is not None and found.after is not None:
        words = found.figure == "word error rate"
        before, after = (100 * each if words else each for each in (found.before, found.after))
        parts.append(f"{found.figure} {before:.4g} → {after:.4g}{' %' if words else ''}")
    return ", ".join(parts)


def measured(evaluation: Evaluation, data: str) -> str:
    """Return what one set of data says, in one line of the table."""
    before, after = (row for row in evaluation.rows if row.data == data)
    parts = [_figure(name, before, after) for name in DIGITS if name in after.figures]
    return ", ".join(parts)


def _figure(name: str, before: Row, after: Row) -> str:
    digits, now = DIGITS[name], after.figures[name]
    if name not in before.figures or name not in after.changes:
        return f"{name} {now.value:.{digits}f}{_between(now, digits)}"
    change = _between(after.changes[name], digits, "+")
    return f"{name} {before.figures[name].value:.{digits}f} → {now.value:.{digits}f}{change}"


def _between(estimate: Estimate, digits: int, sign: str = "") -> str:
    if estimate.low is None or estimate.high is None:  # one sample has no interval
        return ""
    return f" ({estimate.low:{sign}.{digits}f} to {estimate.high:{sign}.{digits}f})"


def main() -> None:
    """Parse, run, print a row a set of data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("data", nargs="+")
    parser.add_argument("--limit", type=int, help="only the first so many recordings of each")
    parser.add_argument("--keep", type=Path, help="directory for the result")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        out = (asked.keep or Path(temporary)) / "bare"
        report = surgery.absorb_decompose(asked.model, out)
        attention = report.savings[0]
        calibration = report.calibration
        if calibration is None or calibration.held_out is None:
            raise SystemExit("nothing was held out")
        print(f"{asked.model}: {attention.removed:.1%} of {attention.title} removed")
        print(f"| the package's own, held out | {told(calibration.held_out)} |", flush=True)
        for data in asked.data:
            text = "running" if Path(data).is_file() else None
            found = surgery.evaluate(
                [asked.model, out], data, limit=asked.limit, text=text, allow_leakage=True
            )
            print(f"| {found.data[0].name} | {measured(found, found.data[0].name)} |", flush=True)


if __name__ == "__main__":
    main()
