"""How well does a small LLaMA learn another kind of text, by what is trained of it?

    OMP_NUM_THREADS=1 python benchmarks/adaptation.py --model DIR --text FILE -o OUT
        [--steps N] [--batch N] [--length N] [--seeds N] [--only NAME …]

Divides the text by place into eight tenths to train on, a tenth to choose learning rates by, and a
tenth to test on. Every row is tuned by ``surgery.tune`` with the same steps, batch and schedule
(cosine, 3 % warm-up), and its paper's penalty. Its learning rate is the best of a grid on the
first 256 rows of the second part with seed 0: from a first guess to whichever neighbour is better,
until none is. Other seeds (order of the data, LoRA's start) are trained at that rate alone; the
third part is looked at after that. Losses are nats a token, in rows as long as those trained on.

Runs are kept in OUT and found done the next time; OUT/adaptation.json holds all figures.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import AutoTokenizer
from transformers.utils import logging

import surgery
from surgery import Preparation
from surgery.errors import SurgeryError
from surgery.stored.adapter import read_adapter
from surgery.training.losses import counted, summed_loss
from surgery.training.packing import PackedText, collate_text
from surgery.training.text_data import read_examples

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
CHOOSING = 256  # rows of the second part that a learning rate is chosen by
PARTS = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}

ATTENTION = ("q", "k", "v", "o")
ALL = (*ATTENTION, "gate", "up", "down")
FEWEST, SMALL, LARGE, FULL = "fewest", "2.5 k", "53 k", "all"

PUBLISHED = {"SORSA's": ("sorsa", "pissa", "full", "lora"), "CLOVER's": ("core", "pissa", "lora")}
"""Best first."""


@dataclass(frozen=True)
class Row:
    """What is trained: name, budget, method, where a search for its learning rate begins, of what.

    Rows of one budget have as nearly the same number of parameters as their methods allow.
    """

    name: str
    budget: str
    train: str
    rate: float
    where: str
    preparation: Preparation = field(default_factory=Preparation)


BY_RANK_1 = "rank 1: q, k, v, o", Preparation(rank=1, targets=ATTENTION)
BY_RANK_9 = "rank 9: all maps", Preparation(rank=9, targets=ALL)
TWO = "2 reflections: q, k, v, o", Preparation(reflections=2, targets=ATTENTION)
TWENTY = "20 reflections: all maps", Preparation(reflections=20, targets=ALL)

ROWS = (
    Row("diagonal", FEWEST, "diagonal", 3e-2, "QK and VO"),
    Row("lora-v", FEWEST, "lora", 3e-2, "rank 1: v", Preparation(rank=1, targets=("v",))),
    Row("core", SMALL, "core", 3e-2, "QK and VO", Preparation(up_block=0)),
    Row("sorsa", SMALL, "sorsa", 1e-2, *BY_RANK_1),
    Row("pissa", SMALL, "pissa", 1e-2, *BY_RANK_1),
    Row("lora", SMALL, "lora", 3e-2, *BY_RANK_1),
    Row("hra", SMALL, "hra", 1e-2, *TWO),
    Row("goft", SMALL, "goft", 3e-2, "all maps", Preparation(targets=ALL)),
    Row("qgoft", SMALL, "qgoft", 3e-2, "q, v", Preparation(targets=("q", "v"))),
    Row("core-up", LARGE, "core", 1e-2, "QK and VO, up in blocks of 64", Preparation(up_block=64)),
    Row("sorsa-all", LARGE, "sorsa", 3e-3, *BY_RANK_9),
    Row("pissa-all", LARGE, "pissa", 3e-3, *BY_RANK_9),
    Row("lora-all", LARGE, "lora", 1e-2, *BY_RANK_9),
    Row("hra-all", LARGE, "hra", 1e-2, *TWENTY),
    Row("full", FULL, "full", 3e-3, "everything"),
)


def write_parts(text: Path, folder: Path) -> dict[str, Path]:
    """Write the text's parts, by place, as files."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = text.read_text(encoding="utf-8")
    files = {name: folder / f"{name}.txt" for name in PARTS}
    for name, (begin, end) in PARTS.items():
        piece = whole[round(begin * len(whole)) : round(end * len(whole))]
        files[name].write_text(piece, encoding="utf-8")
    return files


class Bench:
    """Trains and measures as the command line says, each run once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.size = {name: getattr(options, name) for name in ("steps", "batch", "length")}
        self.folder = options.output / "x".join(map(str, self.size.values()))
        self.files = write_parts(options.text, self.folder / "data")
        self.cache = self.folder / "losses.json"
        known = json.loads(self.cache.read_text("utf-8")) if self.cache.exists() else {}
        self.losses: dict[str, dict[str, float]] = known
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        self.rows: dict[str, Dataset[Any]] = {}
        for part, most in (("validation", CHOOSING), ("test", None)):
            rows = PackedText(read_examples(self.files[part], tokenizer), options.length)
            self.rows[part] = Subset(rows, range(len(rows))[:most])

    @torch.inference_mode()
    def nats(self, path: Path, part: str) -> float:
        """Return the mean loss over a part of the text, nats a token."""
        model = surgery.load(path)
        total, count = 0.0, 0
        for items in DataLoader(self.rows[part], batch_size=16, collate_fn=collate_text):
            labels = items.pop("labels")
            outputs = model(**items, use_cache=False)
            total += float(summed_loss(outputs, labels))
            count += int(counted(outputs, labels))
        return total / count

    def measured(self, row: Row | None, rate: float, seed: int, part: str) -> float:
        """Return the loss of a run, or of the untouched model, on a part of the text."""
        name = f"{row.name}-{rate:g}-{seed}" if row else "untouched"
        key = self.losses.setdefault(name, {})
        if part not in key:
            try:
                if row is not None and "parameters" not in key:
                    key["parameters"] = self.tuned(row, rate, seed, name)
                key[part] = self.nats(self.folder / name if row else self.options.model, part)
            except SurgeryError as error:
                if "not a number" not in str(error):
                    raise
                key[part] = inf
            self.cache.write_text(json.dumps(self.losses, indent=1), encoding="utf-8")
            print(f"{name}: {part} {key[part]:.4f}", flush=True)
        return key[part]

    def tuned(self, row: Row, rate: float, seed: int, name: str) -> int:
        """Tune the model, or find it tuned; return how many numbers were trained."""
        surgery.tune(
            self.options.model,
            self.folder / name,
            data=self.files["train"],
            train=row.train,
            preparation=row.preparation,
            options=surgery.TuneOptions(
                **self.size,
                micro_batch=self.options.batch,
                learning_rate=rate,
                schedule="cosine",
                warmup=0.03,
                held_out=0.0,
                save_every=self.options.steps,
                seed=seed,
                device="cpu",
            ),
        )
        return int(read_adapter(self.folder / name).trained["parameters"])

    def best_rate(self, row: Row) -> tuple[float, dict[str, float]]:
        """Return the learning rate with the least validation loss, and what was tried."""
        tried: dict[int, float] = {}
        best, last = RATES.index(row.rate), -1
        while best != last:
            for index in {best, max(best - 1, 0), min(best + 1, len(RATES) - 1)} - tried.keys():
                tried[index] = self.measured(row, RATES[index], 0, "validation")
            best, last = min(tried, key=tried.__getitem__), best
        return RATES[best], {f"{RATES[i]:g}": tried[i] for i in sorted(tried)}

    def result(self, row: Row) -> dict[str, Any]:
        """Choose the learning rate, then train the other seeds, then look at the test."""
        rate, tried = self.best_rate(row)
        test = [self.measured(row, rate, seed, "test") for seed in range(self.options.seeds)]
        said = {key: value for key, value in vars(row).items() if key != "preparation"}
        counts = {"parameters": int(self.losses[f"{row.name}-{rate:g}-0"]["parameters"])}
        spread = stdev(test) if len(test) > 1 else 0.0
        losses = {"validation": tried, "test": test, "mean": mean(test), "spread": spread}
        return {**said, **counts, "rate": rate, **losses}


def table(results: list[dict[str, Any]], untouched: float) -> str:
    """Return the results as Markdown, the best of each budget first."""
    lines = [
        "| budget | trained | of | parameters | learning rate | test loss | gained |",
        "|:---|:---|:---|---:|---:|---:|---:|",
    ]
    budgets = (FEWEST, SMALL, LARGE, FULL)
    for one in sorted(results, key=lambda each: (budgets.index(each["budget"]), each["mean"])):
        loss = f"{one['mean']:.4f} ± {one['spread']:.4f}"
        cells = f"{one['budget']} | {one['train']} | {one['where']} | {one['parameters']:,}"
        gained = f"{untouched - one['mean']:.3f}"
        lines.append(f"| {cells} | {one['rate']:g} | {loss} | {gained} |")
    return "\n".join(lines)


def verdicts(results: list[dict[str, Any]]) -> list[str]:
    """Return how each step of a published order comes out here, in each budget.

    It is open where the means differ by less than twice the standard deviation of a difference.
    """
    said = []
    for whose, order in PUBLISHED.items():
        for budget in (SMALL, LARGE):
            own = {each["train"]: each for each in results if each["budget"] in (budget, FULL)}
            for better, worse in pairwise([own[name] for name in order if name in own]):
                gap = worse["mean"] - better["mean"]
                spread = (better["spread"] ** 2 + worse["spread"] ** 2) ** 0.5
                word = "open" if abs(gap) <= 2 * spread else "holds" if gap > 0 else "reversed"
                pair = f"{better['train']} below {worse['train']}"
                said.append(f"{whose} order, {budget}: {pair}: {gap:+.4f} ± {spread:.4f}: {word}")
    return said


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    for name, default in (("steps", 100), ("batch", 8), ("length", 128), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", nargs="+", choices=[row.name for row in ROWS])
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    bench = Bench(options)
    results = [bench.result(row) for row in ROWS if row.name in (options.only or [row.name])]
    untouched = bench.measured(None, 0.0, 0, "test")
    said = verdicts(results)
    print(f"\nuntouched: {untouched:.4f}", table(results, untouched), *said, sep="\n")
    figures = json.dumps({"untouched": untouched, "rows": results, "verdicts": said}, indent=2)
    (options.output / "adaptation.json").write_text(figures + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
