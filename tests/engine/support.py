"""Tiny checkpoints on disk, and oracles that share no code with the engine."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.models import tiny_model
from tests.runtime.naive import (
    Site,
    output_axis,
    outputs,
    outputs_of,
    relative_error,
    sites,
)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TOKENIZER = {"tokenizer_config.json": '{"model_max_length": 64}', "vocab.json": '{"a": 0}'}


def save_tiny(
    name: str,
    directory: Path,
    *,
    dtype: str = "fp32",
    sharded: bool = False,
    seed: int = 0,
) -> Path:
    """Save a tiny model as a hub would, with two files of a tokenizer beside it."""
    torch.manual_seed(seed)  # what follows is as random as after building the model
    directory.mkdir(parents=True, exist_ok=True)
    for file, data in _saved(name, dtype, sharded, seed).items():
        (directory / file).write_bytes(data)
    return directory


@cache
def _saved(name: str, dtype: str, sharded: bool, seed: int) -> dict[str, bytes]:
    """Every file of a saved model: building one takes longer than most of what is done to it."""
    model = tiny_model(name, dtype=DTYPES[dtype], seed=seed)
    with TemporaryDirectory() as temporary:
        directory = Path(temporary)
        shard = min(30_000, model.get_memory_footprint() // 2) if sharded else "5GB"
        model.save_pretrained(directory, max_shard_size=shard)
        for file, text in TOKENIZER.items():
            (directory / file).write_text(text)
        assert (directory / "model.safetensors").exists() != sharded
        return contents(directory)


def tensors_of(directory: Path) -> dict[str, Tensor]:
    """Read every tensor of a directory with the safetensors library alone."""
    found: dict[str, Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        found |= load_file(file)
    return found


def config_of(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "config.json").read_text())


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, by relative path."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def inputs(model: Any, *, batch: int = 2, length: int = 9) -> dict[str, Tensor]:
    """Random input of a family, in the model's dtype."""
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(3, 48, (batch, length), generator=generator)
    if model.config.model_type != "whisper":
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    bins, frames = model.config.num_mel_bins, 2 * model.config.max_source_positions
    features = torch.randn(batch, bins, frames, generator=generator)
    return {"input_features": features.to(model.dtype), "decoder_input_ids": tokens}


def run(model: Any) -> Tensor:
    """Outputs on the random input."""
    return outputs(model, inputs(model))


@torch.no_grad()
def regauge(model: Any, c: float = 1.3) -> Any:
    """Rescale q by c, k by 1/c, v by c and o by 1/c, in place: the same function.

    Rounding the result shows what the dtype alone costs this model, where the model's own
    weights may be exact in it. Scalars commute with RoPE and keep grouped heads equal.
    """
    for site in sites(model):
        module = model.get_submodule(site.path)
        to_q, to_k = (1.0, 1.0) if site.normed else (c, 1 / c)
        for part, factor in enumerate((to_q, to_k, c)):
            projection, own = module.get_submodule(site.projections[part]), outputs_of(site, part)
            axis = output_axis(projection)
            projection.weight.movedim(axis, 0)[own].mul_(factor)
            if projection.bias is not None:
                projection.bias[own].mul_(factor)
        module.get_submodule(site.projections[3]).weight.mul_(1 / c)
    return model


def rounded(model: Any, dtype: torch.dtype) -> Any:
    """Round every attention weight of a float64 model to ``dtype`` and back, in place."""
    with torch.no_grad():
        for site in sites(model):
            for parameter in model.get_submodule(site.path).parameters():
                parameter.copy_(parameter.to(dtype).double())
    return model


def measured_rounding(original: Any, dtype: torch.dtype) -> float:
    """Worst error that rounding costs three equivalent forms of a float64 model."""
    truth = run(original)
    errors = []
    for c in (1.3, 0.71, 1.9):
        other = rounded(regauge(copy.deepcopy(original), c), dtype)
        errors.append(relative_error(run(other), truth))
    return max(errors)


def head_products(model: Any, site: Site) -> tuple[list[Tensor], list[Tensor]]:
    """Every query head's ``W_qᵀ W_k`` and ``W_o W_v``, by plain loops in float64."""
    module = model.get_submodule(site.path)
    d, groups = site.head_dim, site.heads // site.kv_heads
    maps = [module.get_submodule(name) for name in site.projections]
    q, k, v, o = (one.weight.double().movedim(output_axis(one), 0) for one in maps)
    q, k, v = (each[outputs_of(site, part)] for part, each in enumerate((q, k, v)))
    q_bias = torch.zeros(len(q))
    if maps[0].bias is not None:
        q_bias = maps[0].bias.double()[outputs_of(site, 0)]
    scores, outs = [], []
    for head in range(site.heads):
        kv = head // groups
        rows, kv_rows = slice(head * d, (head + 1) * d), slice(kv * d, (kv + 1) * d)
        query = torch.cat([q[rows], q_bias[rows, None]], dim=1)
        scores.append((query.T @ k[kv_rows]).detach())
        outs.append((o[:, rows] @ v[kv_rows]).detach())
    return scores, outs
