"""Made-up but plausible reports of split and re-parameterised models: tiny and 7B sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

import numpy as np

from surgery.report.model.report import (
    LinearReport,
    Measurement,
    Quantity,
    Report,
    Source,
    Trainable,
)
from tests.report.factory import HOSTILE

SPLITS = ("sorsa", "pissa")
BEHIND = ("core", "diagonal")
METHODS = (*SPLITS, "hra", "goft", "qgoft", *BEHIND)
SIZES = ("tiny", "7b")
NAMES = {"tiny": "whisper-tiny.en", "7b": "meta-llama/Llama-2-7b-hf"}
PARAMETERS = {"tiny": 37_760_256, "7b": 6_738_415_616}
OPTIONS = {
    "sorsa": {"rank": 16, "scale": 1.0, "svd": "fast", "tolerance": 1e-3},
    "pissa": {"rank": 16, "scale": 1.0, "svd": "full"},
    "hra": {"reflections": 8},
    "goft": {},
    "qgoft": {},
    "core": {"pairs": ["qk", "vo"], "up_block": 64},
    "diagonal": {"pairs": ["qk", "vo"]},
}

Map = tuple[str, str, str, int | None, int, int]


def maps_of(size: str) -> Iterator[Map]:
    """Path, role, scope, layer and shape of every map: attention and MLP."""
    if size == "7b":
        shapes = {
            "self_attn.q_proj": ("q", 4096, 4096),
            "self_attn.k_proj": ("k", 4096, 4096),
            "self_attn.v_proj": ("v", 4096, 4096),
            "self_attn.o_proj": ("o", 4096, 4096),
            "mlp.gate_proj": ("gate", 11008, 4096),
            "mlp.up_proj": ("up", 11008, 4096),
            "mlp.down_proj": ("down", 4096, 11008),
        }
        for layer in range(32):
            for module, (role, *shape) in shapes.items():
                yield f"model.layers.{layer}.{module}", role, "decoder", layer, *shape
        return
    for tower, attentions in (
        ("encoder", ("self_attn",)),
        ("decoder", ("self_attn", "encoder_attn")),
    ):
        for layer in range(4):
            path = f"model.{tower}.layers.{layer}"
            for attention in attentions:
                scope = "cross" if attention == "encoder_attn" else tower
                for module in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    role = module[0]
                    yield f"{path}.{attention}.{module}", role, scope, layer, 384, 384
            yield f"{path}.fc1", "up", tower, layer, 1536, 384
            yield f"{path}.fc2", "down", tower, layer, 384, 1536


def trainable_of(method: str, rank: int, out: int, inputs: int) -> int:
    return {
        "sorsa": rank * (out + inputs + 1),
        "pissa": rank * (out + inputs),
        "hra": 8 * inputs,
        "goft": inputs - 1,
        "qgoft": 4 * (inputs - 1),
        "core": 64 * out,
        "diagonal": out,
    }[method]


_STEEPNESS = {"q": 1.15, "k": 1.2, "v": 0.55, "o": 0.6, "gate": 0.7, "up": 0.45, "down": 0.42}


def _linear(rng: np.random.Generator, method: str, rank: int, one: Map) -> LinearReport:
    path, role, scope, layer, out, inputs = one
    known = LinearReport(
        path, role, scope, layer, out, inputs, trainable_of(method, rank, out, inputs)
    )
    if method not in SPLITS + BEHIND:
        return replace(known, defect=float(10 ** rng.uniform(-7.3, -6.9)), start_error=0.0)
    depth = (layer or 0) / 31
    steepness = _STEEPNESS[role] * (1 - 0.35 * depth) * rng.lognormal(0, 0.06)
    index = np.arange(1, min(out, inputs) + 1)
    values = (
        0.3 * np.sqrt(out) * (1 + depth) * index**-steepness * rng.lognormal(0, 0.02, len(index))
    )
    values = np.sort(values)[::-1]
    if method in BEHIND:
        return replace(known, spectrum=values.tolist(), defect=2e-15, start_error=3.1e-4)
    energy = np.square(values)
    return replace(
        known,
        spectrum=values[:rank].tolist(),
        captured=float(energy[:rank].sum() / energy.sum()),
        shortfall=float(10 ** rng.uniform(-5, -3.3)) if method == "sorsa" else 1e-15,
        defect=float(10 ** rng.uniform(-6.8, -5.9)),
        start_error=float(10 ** rng.uniform(-8.2, -7.5)) if "encoder" in path else 2.1e-4,
    )


def make_linear_report(method: str = "sorsa", size: str = "tiny", *, dry: bool = False) -> Report:
    """Build a report of ``method`` on a model of ``size``: ``tiny`` or ``7b``.

    ``dry``: nothing was written and no weights were read, so shapes are all that is known.
    """
    rng = np.random.default_rng(11)
    rank = 16 if size == "tiny" else 128
    linears = [_linear(rng, method, rank, one) for one in maps_of(size)]
    if dry:
        unknown = {"captured": None, "shortfall": None, "defect": None, "start_error": None}
        linears = [replace(one, spectrum=[], **unknown) for one in linears]
    trainable = sum(one.trainable for one in linears)
    name, before = NAMES[size], PARAMETERS[size]
    total = Trainable(
        trainable, before, before, 2 * before, 2 * before + 4 * trainable, 4 * trainable
    )
    options = {**OPTIONS[method], "targets": ["attention", "mlp"], "dtype": None}
    if "rank" in options:
        options["rank"] = rank
    verb = "split" if method in SPLITS else "reparam"
    flops = 2 * sum(prod((one.out_features, one.in_features)) for one in linears)
    return Report(
        title=f"{name}: {verb} by {method}",
        method=method,
        options=options,
        preset=None,
        source=Source(
            name=name,
            path=f"hub/{name}",
            model_type="whisper" if size == "tiny" else "llama",
            sha256={"model.safetensors": "4c" * 32},
            dtype="float16",
        ),
        versions={"surgery": "0.3.0", "torch": "2.13.0"},
        sites=[],
        savings=[],
        quantities=[
            Quantity("disk_bytes", "Weights on disk", "bytes", 2 * before, total.bytes_after),
            Quantity("flops_token", "Treated maps, a token", "FLOPs", flops, flops + 2 * trainable),
        ],
        measurements=[]
        if dry
        else [
            Measurement("wer", "Word error rate", "test speech, 120 clips", "%", 2.04, 2.04)
            if size == "tiny"
            else Measurement("perplexity", "Perplexity", "WikiText-2 test", "", 5.47, 5.47),
            Measurement("drift", "Output error", "test speech, 10 clips", "", None, 0.00021),
        ],
        seconds={} if dry else {"split": 6.2, "write": 1.1},
        notes=["The embeddings and the last linear map are not treated."],
        output=None if dry else f"checkpoints/{name.split('/')[-1]}-{method}",
        command=f"surgery {verb} {name} --method {method}",
        linears=linears,
        trainable=total,
    )


def bare(report: Report) -> Report:
    """The same report with nothing that may be missing."""
    linears = [
        LinearReport(
            one.path, one.role, one.scope, None, one.out_features, one.in_features, one.trainable
        )
        for one in report.linears
    ]
    return replace(
        report,
        linears=linears,
        trainable=None,
        quantities=[],
        measurements=[],
        notes=[],
        options={},
        command=None,
    )


def hostile_linear_report(method: str = "sorsa") -> Report:
    """A report whose every free-text field tries to break out of its page."""
    plain = make_linear_report(method)
    first, second, *rest = plain.linears
    hostile = replace(first, path=HOSTILE, role=HOSTILE, scope=HOSTILE)
    return replace(
        plain,
        title=HOSTILE,
        preset=HOSTILE,
        command=HOSTILE,
        output=HOSTILE,
        options={HOSTILE: HOSTILE, "rank": HOSTILE, "reflections": HOSTILE},
        versions={HOSTILE: HOSTILE},
        notes=[HOSTILE],
        source=Source(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, HOSTILE),
        measurements=[Measurement(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1.0, 2.0)],
        linears=[hostile, replace(second, role=HOSTILE), *rest],
    )
