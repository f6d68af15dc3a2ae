"""Does the damage predicted from trials of single parts come true for cuts of many together?

    python benchmarks/damage_prediction.py --model DIR --calibrate DIR|FILE --test DIR|FILE
        [--allocations 30] [--scope encoder] [--whole] [--multiple 8] [--svg FILE] [--markdown FILE]

Draws random allocations: some of the blocks and pairs, each losing a random share of its vectors
(those of least energy). Predicts the damage of each from calibration data, puts the cut in place
on the running model, and measures it on the test data, which the calibration has not seen. Prints
both, and Spearman's rank correlation of the two.

With ``--whole`` the parts are those of ``surgery compress --seams qk,vo,ffn --layout ragged``:
every attention and every feed-forward block is at a size of its own, some are dropped whole, what
is left is fitted as ever, and predictions are those that the budget is spent by.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.figure import Figure
from scipy.stats import spearmanr
from transformers.utils import logging

import surgery
from surgery.calibration.data import CalibrationData, open_data
from surgery.calibration.sensitivity import least_energy_ranks
from surgery.calibration.witness import Output, Witness, error_of, inputs_of, unit_of
from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.transaction import Transaction
from surgery.engine.compress.attention import AttentionPart
from surgery.engine.compress.cutting import Cutting
from surgery.engine.compress.plan import make_plan as make_whole_plan
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


Drawn = Iterator[tuple[float, float, float, Output]]
"""Of every allocation: share that goes, damage predicted, damage measured, and of which output."""


def attention(source: Any, test: CalibrationData, asked: Any, generator: random.Random) -> Drawn:
    """Draw allocations of attention, predicted from trials of each pair on the whole model."""
    options = surgery.Options(scope=asked.scope, calibrate=surgery.Calibrate(asked.calibrate))
    plan = make_plan(source, options)
    with CalibrationRun(plan, ignore) as run:
        pricing, _ = price(plan, run, None, ignore)
        judge = Witness(inputs_of(run.model, run.sites, test, run.processor))
        for _ in range(asked.allocations):
            ranks = allocation(pricing, generator)
            with pricing.in_place(ranks):
                found = judge.damage()
            expected = predicted_damage(pricing.spectra, ranks)
            yield pricing.removed(ranks), expected, found, judge.output


def whole_model(source: Any, test: CalibrationData, asked: Any, generator: random.Random) -> Drawn:
    """Draw allocations of every block, predicted as ``compress`` does, and fitted."""
    options = surgery.CompressOptions(
        layout="ragged",
        seams=("qk", "vo", "ffn"),
        scope=asked.scope or "all",
        multiple=asked.multiple,
        calibrate=asked.calibrate,
        samples=asked.samples,
    )
    plan = make_whole_plan(source, options)
    part = AttentionPart(plan, ignore)
    with (
        TemporaryDirectory() as place,
        Transaction(Path(place) / "parts", {}, keep=False) as kept,
        part.run as run,
    ):
        cutting = Cutting(plan, run, part, kept, ignore)
        cutting.several, budget = True, cutting.priced()
        assert budget is not None
        judge = Witness(inputs_of(run.model, plan.sites, test, run.processor))
        for _ in range(asked.allocations):
            left = sizes_drawn(budget.sizes(), generator)
            budget.try_without(left)
            choice = budget.at(plan, left)
            cutting.take(choice)
            with cutting.in_place():
                found = judge.damage()
            yield cutting.removed, choice.expected, found, judge.output
            cutting.forget(())


def sizes_drawn(able: Mapping[str, Sequence[int]], generator: random.Random) -> dict[str, int]:
    """Draw what stays of each block: some lose nothing, some a share, a few all that can go."""
    chance, deepest = generator.uniform(0.2, 1.0), generator.uniform(0.1, 0.8)
    dropped, left = generator.choice((0.0, 0.0, 0.1)), dict[str, int]()
    for name, sizes in able.items():
        share = generator.uniform(0, deepest) if generator.random() < chance else 0.0
        share = 1.0 if generator.random() < dropped else share
        wanted = sizes[0] - share * (sizes[0] - sizes[-1])
        left[name] = min(sizes, key=lambda size: abs(size - wanted))
    return left


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
        plot.set_xlabel("predicted from trials of single parts")
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
    parser.add_argument("--whole", action="store_true", help="feed-forward blocks, too")
    parser.add_argument("--multiple", type=int, default=8, help="widths, with --whole")
    parser.add_argument("--samples", type=int, help="documents or recordings, with --whole")
    parser.add_argument("--allocations", type=int, default=30)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--markdown", type=Path)
    asked = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    with resolve(asked.model) as source:
        kind = "audio" if source.config["model_type"] == "whisper" else "text"
        test, generator = open_data(asked.test, kind), random.Random(0)
        lines = ["| removed | predicted | measured |", "|---:|---:|---:|"]
        predicted, measured = list[float](), list[float]()
        draw = whole_model if asked.whole else attention
        for removed, expected, found, output in draw(source, test, asked, generator):
            predicted.append(error_of(output, expected))
            measured.append(error_of(output, found))
            lines.append(f"| {removed:.1%} | {predicted[-1]:.4f} | {measured[-1]:.4f} |")
            print(lines[-1], flush=True)
    correlation = float(spearmanr(predicted, measured).statistic)
    told = f"{correlation:.3f} ({unit_of(output)})"
    lines.append(f"\nSpearman's rank correlation over {len(measured)}: {told}")
    print(lines[-1])
    if asked.svg is not None:
        about = f"Error of the {output}: rank correlation {correlation:.2f}"
        scatter(asked.svg, predicted, measured, about)
    if asked.markdown is not None:
        asked.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
