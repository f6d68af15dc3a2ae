"""What does removing attention parameters cost a real Whisper, per layout and method?

    python benchmarks/whisper_frontier.py --model DIR --speech DIR --digits DIR [DIR ...]
        [--calibrate DIR] [--fractions 12.5% 25% 46.4%] [--layouts ...] [--methods ...]
        [--clips N] [--device cpu] [--markdown FILE]

For every fraction of the encoder's attention parameters, layout and method: prunes (no training),
then measures the relative error of the encoder's output on speech (frames of
speech, mean removed) and the word error rate on each folder of spoken digits. ``per-pair`` is the
paper's way of cutting QK and VO each by the fraction; ``one budget`` cuts both together;
``magnitude`` prunes the existing vectors, with the same one budget; ``calibrated`` decides by what
attention computes on the recordings of ``--calibrate``, which are none of those measured on.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import WhisperProcessor
from transformers.utils import logging

import surgery
from surgery.evaluation.audio import SpeechFolder
from surgery.evaluation.drift import encoder_drift
from surgery.evaluation.transcribe import transcribe
from surgery.evaluation.wer import word_errors
from surgery.methods import LAYOUTS, Layout

METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"baseline": "magnitude"},
    "per-pair": {"per_pair": True},
    "one budget": {},
    "calibrated": {},
}
LONGEST = 24  # tokens a clip; digits need at most 8, a damaged model would repeat itself to 448


class Remembered:
    """A model whose encoder is run once for each input: the same reference serves every case."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._outputs: dict[bytes, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def get_encoder(self) -> Any:
        """Return the encoder, or rather what it said before."""

        def encode(features: Any) -> Any:
            key = hashlib.sha256(features.cpu().numpy().tobytes()).digest()
            if key not in self._outputs:
                self._outputs[key] = self._model.get_encoder()(features)
            return self._outputs[key]

        return encode


def percent(text: str) -> float:
    """Parse ``25%``."""
    return float(text.removesuffix("%")) / 100


def cases(
    fractions: list[float], layouts: list[Layout], methods: list[str]
) -> Iterator[tuple[float, Layout, str]]:
    """Yield every combination that makes sense."""
    for fraction in fractions:
        for layout in layouts:
            for method in methods:
                if not (layout == "tied" and method == "per-pair"):  # a contradiction
                    yield fraction, layout, method


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--digits", type=Path, nargs="+", required=True)
    parser.add_argument("--fractions", type=percent, nargs="+", default=[0.125, 0.25, 0.464])
    parser.add_argument("--calibrate", help="recordings to calibrate on")
    parser.add_argument(
        "--layouts", nargs="+", default=["ragged", "block", "tied"], choices=LAYOUTS
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--clips", type=int, help="only so many of each digit folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    methods = options.methods or [name for name in METHODS if name != "calibrated"]
    if options.calibrate and not options.methods:
        methods.append("calibrated")
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    processor = WhisperProcessor.from_pretrained(options.model)
    speech = SpeechFolder.open(options.speech).audio()
    digits = [SpeechFolder.open(folder, limit=options.clips) for folder in options.digits]
    sounds = [folder.audio() for folder in digits]
    original = Remembered(surgery.load(options.model, dtype="float32", device=options.device))

    def error_rates(model: Any) -> list[float]:
        return [
            100
            * word_errors(
                folder.references(),
                transcribe(model, processor, audio, batch=16, max_new_tokens=LONGEST),
            ).rate
            for folder, audio in zip(digits, sounds, strict=True)
        ]

    names = [folder.name for folder in digits]
    head = ["removed", "layout", "method", "executed", "encoder error"]
    lines = [
        "| " + " | ".join([*head, *(f"WER {name} %" for name in names)]) + " |",
        "|" + "---:|:---|:---|---:|---:|" + "---:|" * len(names),
    ]
    dense = error_rates(original)
    lines.append(f"| 0 % | | dense | 100 % | 0 | {' | '.join(f'{rate:.1f}' for rate in dense)} |")
    print("\n".join(lines), flush=True)
    kept = tempfile.TemporaryDirectory()  # of the statistics, which every calibrated case uses
    for fraction, layout, method in cases(options.fractions, options.layouts, methods):
        start = time.perf_counter()
        settings = dict(METHODS[method])
        if method == "calibrated":
            statistics = f"{kept.name}/statistics.safetensors"
            settings["calibrate"] = surgery.Calibrate(options.calibrate, statistics)
        settings["by_weights"] = method != "calibrated"
        rule = surgery.Remove(fraction, settings.pop("per_pair", False))
        with tempfile.TemporaryDirectory() as work:
            report = surgery.absorb_decompose(
                options.model,
                Path(work) / "pruned",
                options=surgery.Options(
                    rule=rule, layout=layout, scope="encoder", dtype="float32", **settings
                ),
            )
            model = surgery.load(Path(work) / "pruned", device=options.device)
        drift = encoder_drift(original, model, processor, speech, batch=8)
        rates = error_rates(model)
        attention = report.savings[0]
        flops = next(each for each in report.quantities if each.name == "flops_encoder")
        executed = (flops.executed or flops.after) / flops.before
        lines.append(
            f"| {attention.removed:.1%} | {layout} | {method} | {executed:.0%} "
            f"| {drift.speech:.3f} | {' | '.join(f'{rate:.1f}' for rate in rates)} |"
        )
        print(f"{lines[-1]}   ({time.perf_counter() - start:.0f} s)", flush=True)
    if options.markdown is not None:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
