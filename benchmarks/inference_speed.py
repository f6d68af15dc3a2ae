"""How much faster is a pruned Whisper, in what it is run by, and at what error?

    python benchmarks/inference_speed.py --model DIR --speech DIR [--calibrate DIR] [--digits DIR]
        [--shapes tiny base large-v3] [--layouts tied block ragged] [--fractions 25% 46.4% 60%]
        [--runtimes eager sdpa compile ct2-float32 ct2-int8] [--multiple N] [--repeats 7]
        [--processor] [--device cuda] [--dtype bfloat16] [-o FILE]

Ranks are those of the real Whisper in DIR, pruned by weights alone: each layout and fraction of the
encoder's attention parameters with the error of its encoder's output on speech (as in
``whisper_frontier.py``; with ``--calibrate`` also the error where the cut was decided by
recordings). Shapes have random weights and those ranks, each block's and head's several times;
large-v3 runs 4 of its 32 blocks, and times are scaled to all.

Dense and pruned take turns; a ratio is the median over rounds. *Removed* is the share of attention
FLOPs that the ranks leave out, *executed* what is run of them, padding included, and *quotient* the
share of the attention modules' time that is gone over the share of FLOPs removed. The decoder is
measured apart, on models cut everywhere (``--scope all``), with the word error rate of digits.
``--processor`` counts processor time, which other work on the machine lengthens less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from inference_models import (
    FRAMES,
    SHAPES,
    TOKENS,
    Contestant,
    CTranslate2,
    Ours,
    Ranks,
    Runtime,
    Shape,
    executed,
    ranks_of,
    removed,
    spread,
)
from measuring import Step, turns
from transformers import WhisperProcessor
from transformers.utils import logging

import surgery
from surgery.evaluation.audio import SpeechFolder
from surgery.evaluation.drift import encoder_drift
from surgery.evaluation.transcribe import transcribe
from surgery.evaluation.wer import word_errors
from surgery.methods import LAYOUTS, Layout

RUNTIMES: dict[str, Callable[[argparse.Namespace], Runtime]] = {
    "eager": lambda given: Ours("eager", given.device, given.dtype),
    "sdpa": lambda given: Ours("sdpa", given.device, given.dtype),
    "compile": lambda given: Ours("sdpa", given.device, given.dtype, compiled=True),
    "ct2-float32": lambda given: CTranslate2("float32", given.model),
    "ct2-int8": lambda given: CTranslate2("int8", given.model),
}
Row = dict[str, Any]
HEADS = {
    "encoder": "| shape | runtime | layout | removed | executed | attention ms | of dense "
    "| quotient | window ms | of dense | encoder error |",
    "decoder": "| shape | runtime | layout | removed | ms a token | of dense | tokens/s "
    "| cache MB | of dense | WER % |",
}
LONGEST = 24  # tokens a clip of digits


@dataclass(frozen=True)
class Cut:
    """A real Whisper, pruned: its ranks, and what that does to it (to its encoder, to texts)."""

    layout: Layout
    ranks: Ranks
    errors: dict[str, float]


def percent(text: str) -> float:
    """Parse ``25%``."""
    return float(text.removesuffix("%")) / 100


class Real:
    """The real Whisper, and what is measured of its cuts."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._given = given
        self._original = surgery.load(given.model, dtype="float32")
        self._processor = WhisperProcessor.from_pretrained(given.model)
        self._kept = tempfile.TemporaryDirectory()  # of the statistics, which every cut uses

    def cuts(self, scope: str) -> Iterator[Cut]:
        """Yield every layout and fraction, cut out of the encoder or everywhere."""
        ways = ["weights"] + ["calibrated"] * bool(self._given.calibrate)
        for layout in self._given.layouts:
            for fraction in self._given.fractions:
                made = {way: self._cut(layout, fraction, scope, way) for way in ways}
                errors = {way: error for way, (_, error) in made.items()}
                yield Cut(layout, made["weights"][0], errors)

    def _cut(self, layout: Layout, fraction: float, scope: str, way: str) -> tuple[Ranks, float]:
        options: dict[str, Any] = {"scope": scope, "layout": layout, "dtype": "float32"}
        if way == "calibrated":
            statistics_file = f"{self._kept.name}/{scope}.safetensors"
            options["calibrate"] = surgery.Calibrate(self._given.calibrate, statistics_file)
        rule = surgery.Remove(fraction)
        options |= {
            "by_weights": way != "calibrated",
            "rule": rule,
            "multiple": self._given.multiple,
        }
        with tempfile.TemporaryDirectory() as work:
            out = Path(work) / "pruned"
            chosen = surgery.Options(**options)
            surgery.absorb_decompose(self._given.model, out, options=chosen)
            measure = self._drift if scope == "encoder" else self._word_errors
            return ranks_of(out), measure(surgery.load(out))

    def _drift(self, model: Any) -> float:
        speech = SpeechFolder.open(self._given.speech).audio()
        return encoder_drift(self._original, model, self._processor, speech, batch=8).speech

    def _word_errors(self, model: Any) -> float:
        folder = SpeechFolder.open(self._given.digits, limit=40)
        texts = transcribe(model, self._processor, folder.audio(), max_new_tokens=LONGEST, batch=8)
        return 100 * word_errors(folder.references(), texts).rate


@dataclass(frozen=True)
class Clock:
    """How often to measure, and by which clock."""

    repeats: int
    now: Callable[[], float]

    def turns(self, **steps: Step) -> dict[str, list[float]]:
        """Return the milliseconds of every step, round by round."""
        return turns(steps, self.repeats, clock=self.now)


def paired(dense: Contestant, pruned: Contestant, part: str, clock: Clock) -> Any:
    """Return milliseconds of dense and pruned, and the ratio: medians of rounds taken in turns."""
    steps = {"dense": getattr(dense, part), "pruned": getattr(pruned, part)}
    if None in steps.values():
        return None
    times = clock.turns(**steps)
    ratio = statistics.median(b / a for a, b in zip(*times.values(), strict=True))
    return *(statistics.median(each) for each in times.values()), ratio


def encoder_row(
    shape: Shape,
    ranks: Ranks,
    fused: bool | None,
    dense: Contestant,
    pruned: Contestant,
    clock: Clock,
) -> Row:
    """Time an encoder beside the dense one."""
    blocks = ranks["encoder"]
    row: Row = {"removed": removed(blocks)}
    if fused is not None:
        row["executed"] = executed(shape, blocks, fused=fused)
    if attention := paired(dense, pruned, "attention", clock):
        _, row["attention_ms"], row["attention_ratio"] = attention
        row["attention_ms"] *= shape.scale
        row["quotient"] = (1 - row["attention_ratio"]) / row["removed"]
    whole, cut, ratio = paired(dense, pruned, "window", clock)
    if pruned.front is not None:  # once a window, whatever the number of blocks
        once = statistics.median(clock.turns(front=pruned.front)["front"])
        cut = once + shape.scale * cut
        ratio = cut / (once + shape.scale * whole)
    row["window_ratio"] = ratio
    return row | ({"window_ms": cut} if pruned.front is not None or shape.scale == 1 else {})


def decoder_row(
    ranks: Ranks, dense: Contestant, pruned: Contestant, scale: float, clock: Clock
) -> Row:
    """Time a decoder's tokens beside the dense one's."""
    _, taken, ratio = paired(dense, pruned, "tokens", clock)
    row: Row = {"removed": removed(ranks["decoder"] + ranks["cross"]), "token_ratio": ratio}
    row["token_ms"] = scale * taken / TOKENS
    if dense.cache_bytes and pruned.cache_bytes:
        row["cache_mb"] = scale * pruned.cache_bytes() / 1e6
        row["cache_ratio"] = pruned.cache_bytes() / dense.cache_bytes()
    return row


def line(part: str, row: Row) -> str:
    """Return a row in Markdown."""

    def of(name: str, pattern: str) -> str:
        return pattern.format(row[name]) if name in row else ""

    cells = [row["shape"], row["runtime"], row["layout"], f"{row['removed']:.1%}"]
    if part == "encoder":
        cells += [of("executed", "{:.0%}"), of("attention_ms", "{:.0f}")]
        cells += [of("attention_ratio", "{:.2f}"), of("quotient", "{:.2f}")]
        cells += [of("window_ms", "{:.0f}"), of("window_ratio", "{:.2f}")]
        cells.append(" / ".join(f"{error:.2f}" for error in row["errors"].values()))
    else:
        cells += [of("token_ms", "{:.2f}"), of("token_ratio", "{:.2f}")]
        cells += [f"{1000 / row['token_ms']:.0f}", of("cache_mb", "{:.1f}")]
        cells.append(of("cache_ratio", "{:.2f}"))
        cells.append(" / ".join(f"{error:.1f}" for error in row["errors"].values()))
    return f"| {' | '.join(cells)} |"


def measure(given: argparse.Namespace, part: str) -> Iterator[Row]:
    """Yield the rows of one table as they are measured."""
    cuts = list(Real(given).cuts("encoder" if part == "encoder" else "all"))
    clock = Clock(given.repeats, time.process_time if given.processor else time.perf_counter)
    for name in given.shapes:
        shape = SHAPES[name]
        for key in given.runtimes:
            runtime = RUNTIMES[key](given)
            dense = runtime.contestant(shape, None)
            if part == "decoder" and dense.tokens is None:
                continue
            for cut in cuts:
                ranks = spread(cut.ranks, shape)
                pruned = runtime.contestant(shape, ranks)
                if part == "encoder":
                    row = encoder_row(shape, ranks, runtime.fused, dense, pruned, clock)
                else:
                    row = decoder_row(ranks, dense, pruned, shape.scale, clock)
                known = {"shape": name, "runtime": runtime.name, "layout": cut.layout}
                yield known | row | {"errors": cut.errors}


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--calibrate", help="recordings to calibrate on")
    parser.add_argument("--digits", type=Path, help="measure the decoder too, with these clips")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--layouts", nargs="+", default=["tied", "block"], choices=LAYOUTS)
    parser.add_argument("--fractions", type=percent, nargs="+", default=[0.25, 0.464, 0.6])
    parser.add_argument("--multiple", type=int, default=1)
    parser.add_argument("--runtimes", nargs="+", default=["sdpa"], choices=RUNTIMES)
    parser.add_argument("--parts", nargs="+", default=list(HEADS), choices=HEADS)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--processor", action="store_true", help="count processor time")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch._dynamo.config.recompile_limit = 64  # every cut is a graph of its own
    print(f"{given.device}, {given.dtype}, {torch.get_num_threads()} threads, {FRAMES} frames")
    found: dict[str, list[Row]] = {}
    for part in given.parts:
        if part == "encoder" or given.digits:
            head = HEADS[part]
            print(f"\n{head}\n|:---|:---|:---|{'---:|' * (head.count('|') - 4)}", flush=True)
            found[part] = []
            for row in measure(given, part):
                found[part].append(row)
                print(line(part, row), flush=True)
    if given.output is not None:
        given.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
