"""What does removing attention parameters cost a real LLaMA, by weights alone and calibrated?

    python benchmarks/llama_price.py --model DIR --calibrate FILE --test FILE
        [--fractions 12.5% 25% 50%] [--markdown FILE]

Removes a fraction of V and O, or of Q and K (whole RoPE frequencies), or of all four under one
budget, without training, and measures how much the logarithm of the perplexity on the test text
rises. ``paper`` cuts the smallest singular values of the weights, ``magnitude`` the vectors of
smallest norm, ``calibrated`` decides by what attention computes on the calibration text, which
shares no line with the test.
"""

from __future__ import annotations

import argparse
import tempfile
from math import log
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.utils import logging

import surgery
from surgery.evaluation.perplexity import perplexity, read_documents
from surgery.methods import SeamName

PAIRS: dict[str, tuple[SeamName, ...]] = {"VO": ("vo",), "QK": ("qk",), "QKVO": ("qk", "vo")}


def percent(text: str) -> float:
    """Parse ``25%``."""
    return float(text.removesuffix("%")) / 100


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibrate", required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--fractions", type=percent, nargs="+", default=[0.125, 0.25, 0.5])
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    documents = read_documents(options.test)

    def nats(path: str | Path) -> float:
        return log(perplexity(surgery.load(path), tokenizer, documents).perplexity)

    dense = nats(options.model)
    methods = ("magnitude", "paper", "calibrated")
    head = ["pairs", "removed of them", "of the model"]
    lines = [
        f"| {' | '.join([*head, *methods, 'calibrated / paper'])} |",
        "|:---|---:|---:|---:|---:|---:|---:|",
    ]
    print(f"log-perplexity of the original: {dense:.4f}", *lines, sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as work:
        calibrate = surgery.Calibrate(options.calibrate, f"{work}/statistics.safetensors")
        settings: dict[str, dict[str, Any]] = {
            "magnitude": {"baseline": "magnitude"},
            "paper": {"by_weights": True},
            "calibrated": {"calibrate": calibrate},
        }
        for name, pairs in PAIRS.items():
            for fraction in options.fractions:
                cells, whole = {}, 0.0
                for method in methods:
                    if name != "VO" and method != "calibrated":
                        continue  # across RoPE weights alone say nothing of queries and keys
                    rule = surgery.Remove(fraction, per_pair=method == "paper")
                    report = surgery.absorb_decompose(
                        options.model,
                        f"{work}/{name}-{fraction}-{method}",
                        options=surgery.Options(rule=rule, pairs=pairs, **settings[method]),
                    )
                    cells[method] = nats(report.output or "") - dense
                    whole = next(s.removed for s in report.savings if s.name == "model")
                shown = [f"+{cells[m]:.4f}" if m in cells else "" for m in methods]
                ratio = f"{cells['calibrated'] / cells['paper']:.2f}" if "paper" in cells else ""
                lines.append(
                    f"| {name} | {fraction:.1%} | {whole:.1%} | {' | '.join(shown)} | {ratio} |"
                )
                print(lines[-1], flush=True)
    if options.markdown is not None:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
