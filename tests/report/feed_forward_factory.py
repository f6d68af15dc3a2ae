"""Made-up but plausible reports of narrower feed-forward blocks: Whisper's two towers, LLaMA."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from surgery.report.model.calibration import Calibration, HeldOut, Interval
from surgery.report.model.layers import LayersReport, LayerStep, LayerTower
from surgery.report.model.report import (
    FeedForwardReport,
    Measurement,
    PairReport,
    Quantity,
    Report,
    Saving,
    SiteReport,
    Source,
)
from tests.report.factory import HOSTILE


@dataclass(frozen=True)
class Size:
    """One model: widths of its towers before and after, and what else there is of it."""

    name: str
    family: str
    layers: int
    each: int  # parameters that go with a neuron
    widths: dict[str, tuple[int, int]]
    attention: dict[str, int]  # parameters of a layer's
    rest: dict[str, int]  # of a tower's other tensors


SIZES = {
    "tiny": Size(
        "whisper-tiny.en",
        "whisper",
        4,
        769,
        {"encoder": (1536, 960), "decoder": (1536, 1216)},
        {"encoder": 590_976, "decoder": 1_181_952},
        {"encoder": 1_470_000, "decoder": 20_090_000},
    ),
    "large": Size(
        "openai/whisper-large-v3",
        "whisper",
        32,
        2561,
        {"encoder": (5120, 3584), "decoder": (5120, 4352)},
        {"encoder": 6_557_440, "decoder": 13_114_880},
        {"encoder": 8_600_000, "decoder": 67_000_000},
    ),
    "llama": Size(
        "meta-llama/Llama-3.1-70B",
        "llama",
        80,
        24_576,
        {"decoder": (28_672, 24_448)},
        {"decoder": 150_994_944},
        {"decoder": 2_101_346_304},
    ),
}
HEARD = HeldOut(
    rows=12,
    error=Interval(0.0912, 0.0815, 0.104),
    agreement=0.974,
    figure="word error rate",
    before=0.0526,
    after=0.0581,
    difference=Interval(0.0055, -0.0021, 0.0131),
)
READ = HeldOut(
    rows=24,
    error=Interval(0.0408, 0.0381, 0.0442),
    agreement=0.878,
    figure="perplexity",
    before=5.91,
    after=6.16,
    difference=Interval(0.0414, 0.0386, 0.0446),
)


def path_of(size: Size, scope: str, layer: int) -> str:
    return f"model.layers.{layer}.mlp" if size.family == "llama" else f"model.{scope}.{layer}"


def _blocks(size: Size, *, fitted: bool) -> list[FeedForwardReport]:
    rng = np.random.default_rng(5)
    blocks = []
    for scope, (before, kept) in size.widths.items():
        for layer in range(size.layers):
            depth = layer / (size.layers - 1)
            gone = 1 - kept / before
            error = 0.9 * gone * (0.2 + 0.5 * depth) * rng.lognormal(0, 0.25)
            deleted = error * rng.uniform(1.8, 3.5)
            errors = (float(error), float(deleted)) if fitted else (0.0, 0.0)
            path = path_of(size, scope, layer)
            blocks.append(FeedForwardReport(path, scope, layer, before, kept, *errors))
    return blocks


def _sites(size: Size) -> list[SiteReport]:
    """Attention that keeps three quarters of its values and all of its queries and keys."""
    qk, vo = PairReport([16] * 4, 16), PairReport([12] * 4, 16)
    return [
        SiteReport(f"{scope}.layers.{layer}.attn", scope, layer, 4, 4, 16, qk, vo)
        for scope in size.attention
        for layer in range(size.layers)
    ]


def _savings(size: Size, *, attention: bool) -> list[Saving]:
    layers, each = size.layers, size.each
    ffn = [(layers * each * before, layers * each * kept) for before, kept in size.widths.values()]
    was, now = (sum(numbers) for numbers in zip(*ffn, strict=True))
    savings = [Saving("ffn", "Feed-forward blocks", was, now, now)]
    rest = 0
    for (scope, beside), (before, kept) in zip(size.attention.items(), ffn, strict=True):
        other = layers * beside + size.rest[scope]
        rest += other
        savings.append(
            Saving(scope, scope.capitalize(), other + before, other + kept, other + kept)
        )
    if attention:
        whole = sum(layers * beside for beside in size.attention.values())
        kept = whole * 7 // 8
        savings.insert(0, Saving("attention", "Attention in scope (Q, K, V, O)", whole, kept, kept))
    return [*savings, Saving("model", "Whole model", rest + was, rest + now, rest + now)]


def _calibration(size: Size, *, leaked: int = 0) -> Calibration:
    text = size.family == "llama"
    return Calibration(
        data="wikitext/calib.txt" if text else "speech/calib",
        samples=128 if text else 40,
        queries=262_144.0 if text else 31_842.7,
        output="next token" if text else "encoder output",
        unit="nat/token" if text else "relative",
        padding_weight=0.0 if text else 0.1,
        ridge=0.01,
        in_sample=False,
        leaked=leaked,
        held_out=READ if text else HEARD,
    )


def make_narrower(
    name: str,
    *,
    dry: bool = False,
    measured: bool = False,
    refit: bool = True,
    attention: bool = False,
    leaked: int = 0,
) -> Report:
    """Build a report of ``tiny``, ``large`` (both Whisper) or ``llama``.

    ``attention``: an eighth of it went, too. ``dry``: counted, and nothing run.
    """
    size = SIZES[name]
    savings = _savings(size, attention=attention)
    model = savings[-1]
    blocks = _blocks(size, fitted=not dry)
    if not refit:
        blocks = [replace(one, fitted_error=one.deleted_error) for one in blocks]
    ffn = next(each for each in savings if each.name == "ffn")
    flops = [2 * number for number in (ffn.before, ffn.stored)]
    text = size.family == "llama"
    metric = (
        Measurement("perplexity", "Perplexity", "WikiText-2 test", "", 5.12, 5.31)
        if text
        else Measurement("wer", "Word error rate", "test speech, 120 clips", "%", 2.04, 2.31)
    )
    short = size.name.split("/")[-1]
    return Report(
        title=f"{size.name}: narrower feed-forward blocks",
        method="compress",
        options={
            "remove": 0.1,
            "of": "model",
            "multiple": 64,
            "order": "surgeon",
            "refit": refit,
            "ridge": 0.01,
            "sequential": True,
            "calibrate": "speech/calib",
            "samples": None,
        },
        preset=None,
        source=Source(
            name=size.name,
            path=f"hub/{size.name}",
            model_type=size.family,
            sha256={"model.safetensors": "5d" * 32},
            dtype="float16",
        ),
        versions={"surgery": "0.4.0", "torch": "2.13.0"},
        sites=_sites(size) if attention else [],
        savings=savings,
        quantities=[
            Quantity("disk_bytes", "Weights on disk", "bytes", 2 * model.before, 2 * model.stored),
            Quantity("flops_ffn_decoder", "Decoder feed-forward, a token", "FLOPs", *flops),
            Quantity(
                "flops_whole_decoder",
                "All decoder layers, a token",
                "FLOPs",
                *(2 * number for number in (model.before, model.stored)),
            ),
        ],
        measurements=[metric] if measured else [],
        seconds={} if dry else {"calibrate and fit": 61.2, "price": 8.1},
        notes=["A stock checkpoint: config.json says the widths."],
        output=None if dry else f"checkpoints/{short}-compress",
        command=f"surgery compress {size.name} --remove 10%",
        calibration=None if dry else _calibration(size, leaked=leaked),
        feed_forward=blocks,
    )


def hostile_narrower() -> Report:
    """A report whose every free-text field tries to break out of its page."""
    usual = make_narrower("tiny", leaked=1)
    first, second, *rest = usual.feed_forward
    told = usual.calibration
    assert told is not None
    return replace(
        usual,
        title=HOSTILE,
        method=HOSTILE,
        preset=HOSTILE,
        command=HOSTILE,
        output=HOSTILE,
        options={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
        notes=[HOSTILE],
        source=Source(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, HOSTILE),
        measurements=[Measurement(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1.0, 2.0)],
        savings=[replace(usual.savings[0], title=HOSTILE), *usual.savings[1:]],
        quantities=[Quantity(HOSTILE, HOSTILE, HOSTILE, 2.0, 1.0)],
        layers=LayersReport(
            [LayerTower(HOSTILE, 6, [1])],
            HOSTILE,
            [LayerStep(HOSTILE, 0.1, {HOSTILE: 0.1})],
            HOSTILE,
        ),
        calibration=replace(told, data=HOSTILE, output=HOSTILE, unit=HOSTILE),
        feed_forward=[
            replace(first, path=HOSTILE, scope=HOSTILE),
            replace(second, path=HOSTILE),
            *rest,
        ],
    )
