"""How much of what pruning broke does tuning a few numbers mend?

    python benchmarks/healing.py --model DIR --train DIR --test DIR [DIR ...] -o FOLDER
        [--fraction 46.4%] [--layout ragged] [--steps 270] [--pilot 30] [--batch 4]
        [--methods diagonal core lora-as-diagonal lora-as-core]

Prunes the encoder's attention of a Whisper by weights alone, then tunes it on recordings: only its
singular values (``diagonal``), the cores between them (``core``), and LoRA through PEFT with the
number of trainable parameters nearest to either. Learning rates are chosen on a part of the
training data that is held out, in short runs; the test folders are heard once, at the end. Finished
runs are kept in FOLDER and not repeated, so several processes may share the work by --methods.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from transformers import WhisperProcessor
from transformers.utils import logging

import surgery
from surgery.checkpoint.directory import DirectorySource
from surgery.evaluation.audio import SpeechFolder
from surgery.evaluation.transcribe import transcribe
from surgery.evaluation.wer import word_errors
from surgery.events import Event
from surgery.stored.stored import read_stored

METHODS = ("diagonal", "core", "lora-as-diagonal", "lora-as-core")
RATES = {
    "diagonal": (1e-2, 3e-2, 1e-1),
    "core": (1e-3, 3e-3, 1e-2),
    "lora-as-diagonal": (3e-3, 1e-2, 3e-2),
    "lora-as-core": (1e-3, 3e-3, 1e-2),
}
TARGETS = (("q", "k", "v", "o"), ("v", "o"), ("q", "k"), ("q",), ("v",), ("o",))
HELD_OUT = 0.05
LONGEST = 24  # tokens a clip; digits need at most 8, a damaged model would repeat itself to 448


def percent(text: str) -> float:
    """Parse ``25%``."""
    return float(text.removesuffix("%")) / 100


def told(event: Event) -> None:
    """Print a line now and then."""
    if event.stage == "Tuning" and event.done % 20 == 0:
        print(f"    {event.done}/{event.total} {event.detail}", flush=True)


def placements(pruned: Path) -> Iterator[tuple[int, surgery.Preparation]]:
    """Yield every placement of LoRA on the encoder's attention, with its trainable parameters."""
    with DirectorySource(pruned) as source:
        maps = [one for one in read_stored(source).maps.values() if one.scope == "encoder"]
    layers = sorted({one.layer for one in maps if one.layer is not None})
    for targets, first in product(TARGETS, range(len(layers))):
        chosen = [one for one in maps if one.role in targets and one.layer in layers[first:]]
        each = sum(one.out_features + one.in_features for one in chosen)
        for rank in range(1, 65):
            yield (
                rank * each,
                surgery.Preparation(
                    rank=rank, targets=targets, layers=tuple(layers[first:]), scope="encoder"
                ),
            )


def preparation(method: str, pruned: Path) -> surgery.Preparation:
    """Return how a method is put on the encoder; LoRA as near as it gets to what it is held to."""
    if not method.startswith("lora"):
        return surgery.Preparation(scope="encoder")
    wanted = trainable(method.removeprefix("lora-as-"), pruned)
    # Of placements equally near, the one on more maps: LoRA's usual way.
    best = min(placements(pruned), key=lambda each: (abs(each[0] - wanted), -len(each[1].targets)))
    return best[1]


def trainable(method: str, pruned: Path) -> int:
    """Return how many numbers ``diagonal`` or ``core`` trains of the encoder's attention."""
    config = json.loads((pruned / "config.json").read_text(encoding="utf-8"))
    sites = config["surgery"]["operations"][0]["sites"].values()
    ranks = [rank for site in sites for rank in (*site["qk_ranks"], *site["v_ranks"])]
    return sum(rank if method == "diagonal" else rank * rank for rank in ranks)


class Runs:
    """Tuning runs of one benchmark, each in a folder of its own."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.folder = arguments, arguments.output
        self.pruned: Path = self.folder / "pruned"
        rule = surgery.Remove(arguments.fraction)
        cut = surgery.Options(
            rule=rule,
            layout=arguments.layout,
            scope="encoder",
            dtype="float32",
            by_weights=True,
        )
        surgery.absorb_decompose(arguments.model, self.pruned, options=cut, resume=True)

    def run(self, method: str, rate: float, steps: int, *, pilot: bool) -> tuple[Path, Any]:
        """Tune, or find it done."""
        batch = self.arguments.batch
        out = self.folder / f"{method}-{rate:g}-{steps}{'-pilot' if pilot else ''}"
        report = surgery.tune(
            self.pruned,
            out,
            data=self.arguments.train,
            train=method.partition("-")[0],
            preparation=preparation(method, self.pruned),
            options=surgery.TuneOptions(
                steps=steps,
                batch=batch,
                learning_rate=rate,
                schedule="linear",
                warmup=0.1,
                held_out=HELD_OUT,
                evaluate_every=steps,
                save_every=25,
                transcribe=not pilot,
                device=self.arguments.device,
            ),
            resume=True,
            progress=told,
        )
        return out, report

    def chosen_rate(self, method: str) -> float:
        """Return the learning rate whose short run leaves the least held-out loss."""
        losses = {}
        for rate in RATES[method]:
            print(f"  {method}, pilot at {rate:g}", flush=True)
            _, report = self.run(method, rate, self.arguments.pilot, pilot=True)
            losses[rate] = report.tuning.held_out[-1].loss
            print(f"  {method}, pilot at {rate:g}: held-out loss {losses[rate]:.4f}", flush=True)
        return min(losses, key=lambda rate: losses[rate])


def word_error_rates(
    model: Any, processor: Any, folders: Sequence[SpeechFolder]
) -> list[tuple[str, float]]:
    """Return the word error rate in percent on every folder."""
    return [
        (
            folder.name,
            100
            * word_errors(
                folder.references(),
                transcribe(model, processor, folder.audio(), batch=8, max_new_tokens=LONGEST),
            ).rate,
        )
        for folder in folders
    ]


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, nargs="+", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--fraction", type=percent, default=0.464)
    parser.add_argument("--layout", default="ragged")
    parser.add_argument("--steps", type=int, default=270)
    parser.add_argument("--pilot", type=int, default=30)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--device", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    arguments.output.mkdir(parents=True, exist_ok=True)

    runs = Runs(arguments)
    processor = WhisperProcessor.from_pretrained(arguments.model)
    folders = [SpeechFolder.open(folder) for folder in arguments.test]
    names = [folder.name for folder in folders]
    print("| trained | parameters | rate | held-out loss | " + " | ".join(names) + " |")
    print("|:---|---:|---:|---:|" + "---:|" * len(names), flush=True)

    def row(name: str, count: str, rate: str, loss: str, place: Path) -> None:
        stored = arguments.output / f"{place.name}.wer.json"
        if not stored.exists():
            model = surgery.load(place, device=arguments.device)
            rates = dict(word_error_rates(model, processor, folders))
            stored.write_text(json.dumps(rates), encoding="utf-8")
        found = json.loads(stored.read_text(encoding="utf-8"))
        cells = " | ".join(f"{found[each]:.1f}" for each in names)
        print(f"| {name} | {count} | {rate} | {loss} | {cells} |", flush=True)

    row("nothing: the original", "", "", "", arguments.model)
    row("nothing: pruned", "", "", "", runs.pruned)
    for method in arguments.methods:
        rate = runs.chosen_rate(method)
        out, report = runs.run(method, rate, arguments.steps, pilot=False)
        loss = f"{report.tuning.held_out[-1].loss:.3f}"
        row(method, f"{report.trainable.trainable:,}", f"{rate:g}", loss, out)


if __name__ == "__main__":
    main()
