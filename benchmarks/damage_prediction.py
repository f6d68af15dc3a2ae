"""Does the damage predicted from trials of single pairs come true for cuts of many together?

    python benchmarks/damage_prediction.py --model DIR --calibrate DIR|FILE --test DIR|FILE
        [--allocations 30] [--scope encoder] [--svg FILE] [--markdown FILE]

Draws random allocations: some of the blocks and pairs, each losing a random share of its vectors
(those of least energy). Predicts the damage of each from calibration data, puts the cut in place
on the running model, and measures it on the test data, which the calibration has not seen. Prints
both, and Spearman's rank correlation of the two.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from matplotlib.figure import Figure
from scipy.stats import spearmanr
from transformers.utils import logging

import surgery
from surgery.calibration.data import open_data
from surgery.calibration.sensitivity import least_energy_ranks
from surgery.calibration.witness import Witness, error_of, inputs_of, unit_of
from surgery.checkpoint.resolve import resolve
from surgery.engine.cut.calibration_run import CalibrationRun
from surgery.engine.cut.decide import price
from surgery.engine.cut.plan import make_plan
from surgery.engine.cut.pricing import Pricing
from surgery.events import ignore
from surgery.methods import Ranks, predicted_damage
from surgery.report.figures.canvas import CUT, INK, NARROW, TRAINED, axes, draw, log_ticks, power


def allocation(pricing: Pricing, generator: random.Random) -> Ranks:
    """Draw ranks: each pair of each block is in with some chance, at a depth of its own."""
    ranks: Ranks = {}
    while not ranks or pricing.removed(ranks) == 0:
        chance, deepest = generator.uniform(0.2, 1.0), generator.uniform(0.1, 0.8)
        for path, found in pricing.decompositions.items():
            for pair, part in found.parts.items():
                share = generator.uniform(0, deepest) if generator.random() < chance else 0.0
                ranks.setdefault(path, {})[pair] = least_energy_ranks(part, share)
    return ranks


def scatter(path: Path, predicted: list[float], measured: list[float], about: str) -> None:
    """Draw measured against predicted, both axes logarithmic."""

    def paint(figure: Figure) -> None:
        plot = axes(figure, 64, 52, 16, 40)
        low, high = 0.7 * min(predicted + measured), 1.4 * max(predicted + measured)
        plot.plot([low, high], [low, high], color=CUT, linewidth=1, linestyle=(0, (4, 3)))
        plot.scatter(predicted, measured, s=26, color=TRAINED, alpha=0.75, linewidths=0)
        for scale, ticks in (
            (plot.set_xscale, plot.set_xticks),
            (plot.set_yscale, plot.set_yticks),
        ):
            scale("log")
            ticks(log_ticks(low, high))
        for axis in (plot.xaxis, plot.yaxis):
            axis.set_major_formatter(power)
            axis.set_minor_formatter("")
        plot.set_xlim(low, high)
        plot.set_ylim(low, high)
        plot.grid(visible=True)
        plot.set_title(about, color=INK)
        plot.set_xlabel("predicted from trials of single pairs")
        plot.set_ylabel("measured on test data, all cuts at once")

    svg = draw(
        paint,
        width=NARROW,
        height=NARROW,
        name="damage-prediction",
        title="Error of the output, predicted and measured",
        alt=f"{len(measured)} random allocations: {about}",
    )
    path.write_text(svg + "\n", encoding="utf-8")


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibrate", required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--scope", default=None)
    parser.add_argument("--allocations", type=int, default=30)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--markdown", type=Path)
    asked = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    options = surgery.Options(scope=asked.scope, calibrate=surgery.Calibrate(asked.calibrate))
    with resolve(asked.model) as source:
        plan = make_plan(source, options)
        with CalibrationRun(plan, ignore) as run:
            pricing, _ = price(plan, run, None, ignore)
            kind = "audio" if source.config["model_type"] == "whisper" else "text"
            test = open_data(asked.test, kind)
            judge = Witness(inputs_of(run.model, run.sites, test, run.processor))
            generator = random.Random(0)
            lines = ["| removed | predicted | measured |", "|---:|---:|---:|"]
            predicted, measured = [], []
            for _ in range(asked.allocations):
                ranks = allocation(pricing, generator)
                predicted.append(error_of(run.output, predicted_damage(pricing.spectra, ranks)))
                with pricing.in_place(ranks):
                    measured.append(error_of(run.output, judge.damage()))
                lines.append(
                    f"| {pricing.removed(ranks):.1%} | {predicted[-1]:.4f} | {measured[-1]:.4f} |"
                )
                print(lines[-1], flush=True)
            unit = unit_of(run.output)
    correlation = float(spearmanr(predicted, measured).statistic)
    lines.append(f"\nSpearman's rank correlation over {len(measured)}: {correlation:.3f} ({unit})")
    print(lines[-1])
    if asked.svg is not None:
        about = f"Error of the {run.output}: rank correlation {correlation:.2f}"
        scatter(asked.svg, predicted, measured, about)
    if asked.markdown is not None:
        asked.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
