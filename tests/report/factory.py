"""Made-up but plausible reports, of three sizes: whisper-tiny, whisper-large-v3, LLaMA with GQA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from surgery.architectures import ARCHITECTURES, Config, attention_sites
from surgery.architectures.base import AttentionSite, Scope
from surgery.report.accounting import TensorInfo, full_ranks, restructured, savings
from surgery.report.costs import quantities, sequence_lengths
from surgery.report.model.report import Measurement, PairReport, Report, SiteReport, Source
from surgery.runtime.heads import SiteRanks

ROPE = "RoPE rotates q and k between projection and score: their product cannot be absorbed"

CONFIGS = {
    "tiny": {
        "model_type": "whisper",
        "d_model": 384,
        "encoder_layers": 4,
        "decoder_layers": 4,
        "encoder_attention_heads": 6,
        "decoder_attention_heads": 6,
    },
    "large": {
        "model_type": "whisper",
        "d_model": 1280,
        "encoder_layers": 32,
        "decoder_layers": 32,
        "encoder_attention_heads": 20,
        "decoder_attention_heads": 20,
    },
    "llama": {
        "model_type": "llama",
        "hidden_size": 8192,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}
NAMES = {
    "tiny": "whisper-tiny.en",
    "large": "openai/whisper-large-v3",
    "llama": "meta-llama/Llama-3.1-70B",
}
REST = {
    "tiny": (4_000_000, 26_000_000),
    "large": (427_000_000, 690_000_000),
    "llama": (0, 54_000_000_000),
}
SCOPES = {"tiny": ("encoder",), "large": ("encoder", "decoder", "cross"), "llama": ("decoder",)}


def sites_of(size: str) -> tuple[AttentionSite, ...]:
    family = ARCHITECTURES[str(CONFIGS[size]["model_type"])]
    return attention_sites(family, Config(family, CONFIGS[size], size), family.prefixes[0])


def infos_of(
    size: str, sites: Sequence[AttentionSite]
) -> tuple[dict[str, TensorInfo], dict[str, list[str]]]:
    """Attention tensors in true shapes, and one tensor a tower for all the rest, in 2 bytes."""
    infos: dict[str, TensorInfo] = {}
    towers: dict[str, list[str]] = {}
    for site in sites:
        tower = "encoder" if site.scope == "encoder" else "decoder"
        for role in ("q", "k", "v", "o"):
            stored = site.projection(role)
            infos[stored.weight] = ((stored.out_features, stored.in_features), 2)
            if stored.bias is not None:
                infos[stored.bias] = ((stored.out_features,), 2)
        towers.setdefault(tower, []).extend(site.tensors())
    for tower, count in zip(("encoder", "decoder"), REST[size], strict=True):
        if tower in towers:
            infos[f"{tower}.rest"] = ((count,), 2)
            towers[tower].append(f"{tower}.rest")
    return infos, towers


def _pair(
    rng: np.random.Generator, site: AttentionSite, depth: float, threshold: float, steepness: float
) -> PairReport:
    n = site.head_dim
    spectra, ranks, cut = [], [], []
    for _ in range(site.kv_heads):
        decay = steepness * (1.6 - depth) * rng.lognormal(0, 0.35)
        scale = 0.02 * (1 + depth) * rng.lognormal(0, 0.4)
        scores = scale * np.exp(-decay * np.linspace(0, 1, n) ** 0.8) * rng.lognormal(0, 0.05, n)
        if rng.random() < 0.02:
            scores[n // 2 :] = 0.0  # a rank-deficient head
        scores = np.sort(scores)[::-1]
        rank = max(1, int((scores > threshold).sum()))
        spectra.append(scores.tolist())
        ranks.append(rank)
        cut.append(float(np.sqrt((scores[rank:] ** 2).sum() / (scores**2).sum())))
    return PairReport(
        ranks=ranks,
        full_rank=n,
        spectrum=spectra,
        cut_error=cut,
        exact_error=(10 ** rng.uniform(-15.5, -14.5, site.kv_heads)).tolist(),
        cast_error=[float(np.hypot(error, 3e-4)) for error in cut],
        threshold=threshold if threshold > 0 else None,
    )


def _site(
    rng: np.random.Generator,
    site: AttentionSite,
    layers: int,
    thresholds: tuple[float, float],
    frequencies: bool,
) -> SiteReport:
    depth = site.layer / max(layers - 1, 1)
    full = [site.head_dim] * site.kv_heads
    if "rope" in site.between and not frequencies:
        qk = PairReport(ranks=full, full_rank=site.head_dim, untouched=ROPE)
    else:
        qk = _pair(rng, site, depth, thresholds[0], 3.2)
        if "rope" in site.between:  # a frequency is two vectors
            qk = replace(qk, ranks=[rank + rank % 2 for rank in qk.ranks])
    vo = _pair(rng, site, depth, thresholds[1], 1.9)
    return SiteReport(
        path=site.path,
        scope=site.scope,
        layer=site.layer,
        heads=site.heads,
        kv_heads=site.kv_heads,
        head_dim=site.head_dim,
        qk=qk,
        vo=vo,
    )


def _beside(size: str) -> dict[Scope, int]:
    """FLOPs a position of what stands for all the rest: one product with each of its numbers."""
    return {"encoder": 2 * REST[size][0], "decoder": 2 * REST[size][1]}


def make_report(
    size: str, *, lossless: bool = False, inspect: bool = False, frequencies: bool = False
) -> Report:
    """Build a report of ``size``: ``tiny``, ``large`` or ``llama``.

    With ``frequencies`` heads with RoPE lose some too, as only calibrated runs do.
    """
    rng = np.random.default_rng(7)
    sites = sites_of(size)
    infos, towers = infos_of(size, sites)
    layers = max(site.layer for site in sites) + 1
    scoped = [site for site in sites if site.scope in SCOPES[size]]
    thresholds = (0.0, 0.0) if lossless else (5e-3, 6e-3)
    reports = [_site(rng, site, layers, thresholds, frequencies) for site in scoped]
    ranks: Mapping[str, SiteRanks] = {
        one.path: SiteRanks(tuple(one.qk.ranks), tuple(one.vo.ranks)) for one in reports
    }
    if lossless:
        ranks = {site.path: full_ranks(site) for site in scoped}
        reports = [
            SiteReport(
                **{
                    **vars(one),
                    "qk": PairReport(
                        **{
                            **vars(one.qk),
                            "ranks": [one.head_dim] * one.kv_heads,
                            "cut_error": [0.0] * one.kv_heads * bool(one.qk.spectrum),
                        }
                    ),
                    "vo": PairReport(
                        **{
                            **vars(one.vo),
                            "ranks": [one.head_dim] * one.kv_heads,
                            "cut_error": [0.0] * one.kv_heads,
                        }
                    ),
                }
            )
            for one in reports
        ]
    after = restructured(infos, sites, ranks)
    config = Config(ARCHITECTURES[str(CONFIGS[size]["model_type"])], CONFIGS[size], size)
    metric = (
        Measurement("perplexity", "Perplexity", "WikiText-2 test, 4 096 tokens", "", 3.12, 3.31)
        if size == "llama"
        else Measurement("wer", "Word error rate", "test speech, 120 clips", "%", 2.04, 2.31)
    )
    drift = Measurement("drift", "Output drift", "test speech, 10 clips", "", None, 0.0831)
    return Report(
        title=f"{NAMES[size]}: absorb-decompose",
        method="absorb-decompose",
        options={
            "layout": "ragged",
            "scope": SCOPES[size][0] if len(SCOPES[size]) == 1 else "all",
            "pairs": ["qk", "vo"],
            "threshold_qk": thresholds[0],
            "threshold_vo": thresholds[1],
            "lossless": lossless,
            "energy": None,
        },
        preset=None if lossless else "the CLOVER paper's thresholds (arXiv 2411.17426)",
        source=Source(
            name=NAMES[size],
            path=f"hub/{NAMES[size]}",
            model_type=str(CONFIGS[size]["model_type"]),
            sha256={f"model-0000{i}-of-00002.safetensors": f"{i}" * 64 for i in (1, 2)},
            dtype="float16",
        ),
        versions={"model-surgery": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        sites=reports,
        savings=savings(scoped, infos, after, towers),
        quantities=quantities(sites, ranks, infos, after, sequence_lengths(config), _beside(size)),
        measurements=[] if inspect else [metric, drift],
        seconds={} if inspect else {"spectra": 6.21, "rewrite": 9.7, "verify": 3.3},
        notes=["The runtime pads the heads of a block to the widest for scores and contexts."],
        output=None if inspect else f"checkpoints/{NAMES[size].split('/')[-1]}-absorb-decompose",
        command=f"surgery absorb-decompose {NAMES[size]}",
    )


HOSTILE = "<script>alert(1)</script>'\"--> | `x` $\\frac$ {{ 7*7 }} ${oops}\n# h\x1b[31m"


def hostile_report() -> Report:
    """A report whose every free-text field tries to break out of its page."""
    plain = make_report("tiny")
    site = plain.sites[0]
    pair = PairReport(**{**vars(site.qk), "untouched": HOSTILE})
    bad_site = SiteReport(**{**vars(site), "path": HOSTILE, "scope": HOSTILE, "qk": pair})
    return Report(
        **{
            **vars(plain),
            "title": HOSTILE,
            "method": HOSTILE,
            "preset": HOSTILE,
            "command": HOSTILE,
            "output": HOSTILE,
            "options": {HOSTILE: {HOSTILE: [HOSTILE]}},
            "versions": {HOSTILE: HOSTILE},
            "notes": [HOSTILE],
            "source": Source(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, HOSTILE),
            "sites": [bad_site, *plain.sites[1:]],
            "measurements": [Measurement(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1.0, 2.0)],
        }
    )
