"""What do fewer neurons cost a language model on other text, by every order and share?

    python benchmarks/compress_price.py MODEL --calibrate TEXT --test TEXT [TEXT ...]
        [--remove 10% 20%] [--keep DIR]

Makes MODEL smaller with ``surgery compress`` by each way and share, and measures each TEXT, side by
side: of running text it prints the rise of the perplexity's logarithm, of questions with choices
(JSONL) the change of right answers, with the 95 % interval of the paired difference; and how long
each way took. Nothing is trained.

Two ways take one kind of part alone: whole layers, the least missed first, as many as hold the
share; or attention, by ``surgery absorb-decompose``.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from itertools import count
from math import log
from pathlib import Path
from time import perf_counter
from typing import Any

import surgery

WAYS: dict[str, dict[str, Any]] = {
    "surgeon, one by one": {},
    "surgeon, anchored": {"anchor": True},
    "surgeon, all on the original": {"sequential": False},
    "to each block its own width": {"layout": "ragged"},
    "attention in the same budget": {"layout": "ragged", "seams": ("qk", "vo", "ffn")},
    "layers in the same budget": {"layout": "ragged", "seams": ("qk", "vo", "ffn", "layers")},
    "layers alone": {},
    "attention alone": {},
    "activation, refitted": {"order": "activation", "sequential": False},
    "leverage, refitted": {"order": "leverage", "sequential": False},
    "activation, deleted": {"order": "activation", "sequential": False, "refit": False},
    "magnitude, deleted": {"order": "magnitude", "sequential": False, "refit": False},
}


def main() -> None:
    """Parse, cut, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--calibrate", required=True)
    parser.add_argument("--test", nargs="+", required=True)
    parser.add_argument("--remove", nargs="+", default=["10%", "20%"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--keep", type=Path, help="directory for the results")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        place = asked.keep or Path(temporary)
        for share in asked.remove:
            made: dict[str, Path] = {}
            for way in asked.ways:
                made[way] = _cut(asked.model, asked.calibrate, share, way, place)
            for data in asked.test:
                _measure(asked.model, made, data)


def _cut(model: str, calibrate: str, share: str, way: str, place: Path) -> Path:
    out = place / f"{share.removesuffix('%')}-{way.replace(', ', '-').replace(' ', '-')}"
    if out.exists():
        return out
    remove = float(share.removesuffix("%")) / 100
    begun = perf_counter()
    if way == "attention alone":
        report = _attention(model, out, remove, surgery.Calibrate(calibrate, trials=False))
    else:
        given = {"remove": remove, "calibrate": calibrate, **WAYS[way]}
        if way == "layers alone":
            given |= {"remove": None, "layers": _layers(model, remove)}
        report = surgery.compress(model, out, options=surgery.CompressOptions(**given))
    model_saved = report.savings[-1].removed
    minutes = (perf_counter() - begun) / 60
    print(f"{way}: {model_saved:.1%} of the model in {minutes:.1f} minutes", flush=True)
    return out


def _attention(
    model: str, out: Path, remove: float, calibrate: surgery.Calibrate
) -> surgery.Report:
    """Cut attention until it took its share of the whole model."""
    planned = surgery.absorb_decompose(model, dry_run=True, options=_cut_attention(0.25))
    held = {each.name: each.before for each in planned.savings}
    options = _cut_attention(remove * held["model"] / held["attention"], calibrate=calibrate)
    return surgery.absorb_decompose(model, out, options=options)


def _cut_attention(remove: float, **more: Any) -> surgery.Options:
    by_weights = not more
    return surgery.Options(rule=surgery.Remove(remove), by_weights=by_weights, **more)


def _layers(model: str, remove: float) -> str:
    """Return how many layers hold a share of the model."""
    for number in count(1):
        options = surgery.CompressOptions(layers=str(number), calibrate="shipped")
        planned = surgery.compress(model, options=options, dry_run=True)
        if planned.savings[-1].removed >= remove:
            return str(number)
    raise AssertionError


def _measure(model: str, made: dict[str, Path], data: str) -> None:
    found = surgery.evaluate([model, *made.values()], data, text="running", allow_leakage=True)
    dense, *rows = found.rows
    before = dense.figures["perplexity"].value
    print(f"\n{found.data[0].name}: dense perplexity {before:.2f}")
    print("| way | perplexity | rise of its logarithm |\n|---|--:|--:|")
    for way, row in zip(made, rows, strict=True):
        now, change = row.figures["perplexity"].value, row.changes.get("perplexity")
        interval = ""
        if change is not None and change.low is not None and change.high is not None:
            low, high = (log((before + each) / before) for each in (change.low, change.high))
            interval = f" ({low:.3f} to {high:.3f})"
        print(f"| {way} | {now:.2f} | {log(now / before):.3f}{interval} |", flush=True)
    print()


if __name__ == "__main__":
    main()
