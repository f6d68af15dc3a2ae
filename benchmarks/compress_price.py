"""What does a smaller model cost on other input, by every way and share?

    python benchmarks/compress_price.py MODEL --calibrate DATA --test DATA [DATA ...]
        [--remove 10% 20%] [--ways WAY ...] [--keep DIR]

Makes MODEL smaller with ``surgery compress`` by each way and share, and measures it on each of the
tests, side by side: of running text it prints the rise of the perplexity's logarithm, of questions
with choices (JSONL) the change of right answers, of recordings that of word errors, with the 95 %
interval of the paired difference; and how long each way took. Nothing is trained.

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
    parser.add_argument("--language", default="en", help="what the calibration speaks; auto")
    parser.add_argument("--test", nargs="+", required=True, help="a folder of audio may be DIR=de")
    parser.add_argument("--multiple", type=int, default=64, help="of widths")
    parser.add_argument("--limit", type=int, help="questions or recordings of each test")
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
                made[way] = _cut(asked, share, way, place)
            for data in asked.test:
                _measure(asked.model, made, data, asked.limit)


def _cut(asked: argparse.Namespace, share: str, way: str, place: Path) -> Path:
    model, common = asked.model, {"calibrate": asked.calibrate, "language": asked.language}
    out = place / f"{share.removesuffix('%')}-{way.replace(', ', '-').replace(' ', '-')}"
    if out.exists():
        return out
    remove = float(share.removesuffix("%")) / 100
    begun = perf_counter()
    if way == "attention alone":
        calibrate = surgery.Calibrate(asked.calibrate, language=asked.language, trials=False)
        report = _attention(model, out, remove, calibrate)
    else:
        given = {"remove": remove, "multiple": asked.multiple, **common, **WAYS[way]}
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
    by_weights = surgery.Options(rule=surgery.Remove(remove), by_weights=True)
    planned = surgery.absorb_decompose(model, dry_run=True, options=by_weights)
    held = {each.name: each.before for each in planned.savings}
    rule = surgery.Remove(remove * held["model"] / held["attention"])
    return surgery.absorb_decompose(
        model, out, options=surgery.Options(rule=rule, calibrate=calibrate)
    )


def _layers(model: str, remove: float) -> str:
    """Return how many layers hold a share of the model."""
    for number in count(1):
        options = surgery.CompressOptions(layers=str(number), calibrate="shipped")
        planned = surgery.compress(model, options=options, dry_run=True)
        if planned.savings[-1].removed >= remove:
            return str(number)
    raise AssertionError


def _measure(model: str, made: dict[str, Path], given: str, limit: int | None) -> None:
    data, _, language = given.partition("=")
    options: dict[str, Any] = {"language": language or "en", "limit": limit}
    if Path(data).is_file() and not data.endswith(".jsonl"):
        options |= {"text": "running", "limit": None}
    found = surgery.evaluate([model, *made.values()], data, allow_leakage=True, **options)
    dense, *rows = found.rows
    name = next(each for each in ("perplexity", "accuracy", "wer") if each in dense.figures)
    before = dense.figures[name].value
    rise = name == "perplexity"
    print(f"\n{found.data[0].name}, {found.data[0].samples} samples: dense {name} {before:.2f}")
    print(f"| way | {name} | {'rise of its logarithm' if rise else 'change'} |\n|---|--:|--:|")
    for way, row in zip(made, rows, strict=True):
        now, change = row.figures[name].value, row.changes[name]
        ends = [each for each in (change.value, change.low, change.high) if each is not None]
        if rise:
            ends = [log((before + each) / before) for each in ends]
        shown = [f"{each:+.3f}" if rise else f"{each:+.1f}" for each in ends]
        interval = f" ({shown[1]} to {shown[2]})" if len(shown) == 3 else ""
        print(f"| {way} | {now:.2f} | {shown[0]}{interval} |", flush=True)
    print()


if __name__ == "__main__":
    main()
