"""Cores and singular values behind heads: the same function at the start, merged what they compute.

Oracles are dense products in float64, by loops over heads and rows, and stock transformers on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import surgery
from surgery.errors import UsageError
from surgery.methods import FORMS
from tests.engine.support import (
    DTYPES,
    config_of,
    measured_rounding,
    run,
    save_tiny,
    tensors_of,
)
from tests.models import ROTARY, TINY, family_of, model_class
from tests.runtime.naive import MODELS, make_case, relative_error

pytestmark = pytest.mark.usefixtures("no_pictures")

ROUNDING = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}  # half a unit, relative
PART = {"core": "core_blocks", "diagonal": "singular_values"}


def stock(directory: Path, name: str) -> Any:
    return model_class(name).from_pretrained(directory, dtype=torch.float64)


def matrix(form: str, entry: Mapping[str, Any], flat: Tensor, size: int) -> Tensor:
    """The dense matrix behind a map of ``size`` outputs, entry by entry, in float64."""
    found, row, taken = torch.eye(size, dtype=torch.float64), entry["offset"], 0
    flat = flat.double()
    for r in entry["blocks"]:
        if form == "core":
            found[row : row + r, row : row + r] = flat[taken : taken + r * r].reshape(r, r)
            taken += r * r
        else:
            for i in range(r):
                found[row + i, row + i] = flat[taken + i % (r // entry["shared"])]
            taken += r // entry["shared"]
        row += r
    assert taken == len(flat)
    return found


def oracle(directory: Path, transposed: bool) -> dict[str, Tensor]:
    """Every tensor that the model stands for, without parts, in float64."""
    tensors = {name: tensor.double() for name, tensor in tensors_of(directory).items()}
    last = config_of(directory)["surgery"]["operations"][-1]
    for path, entry in last["sites"].items():
        weight, flat = tensors[f"{path}.weight"], tensors.pop(f"{path}.{PART[last['method']]}")
        size = weight.shape[1 if transposed else 0]
        behind = matrix(last["method"], entry, flat, size)
        tensors[f"{path}.weight"] = weight @ behind.T if transposed else behind @ weight
        if f"{path}.bias" in tensors:
            tensors[f"{path}.bias"] = behind @ tensors[f"{path}.bias"]
    return tensors


@torch.no_grad()
def perturb(model: Any, size: float = 0.2) -> Any:
    """Move every part well away from its start, and every frozen bias of zeros off zero."""
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if name.endswith(tuple(PART.values())):
            assert parameter.dtype == torch.float32
            parameter.add_(torch.randn_like(parameter) * parameter.square().mean().sqrt() * size)
        if name.endswith(("k_proj.bias", "v_proj.bias")):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


FUSED = [name for name in ROTARY if family_of(name).attentions[0].q.module == "qkv_proj"]


@pytest.mark.parametrize("name", FUSED)
def test_singular_values_of_fused_keys_and_values_are_refused_across_rope(
    name: str, tmp_path: Path
) -> None:
    source = save_tiny(name, tmp_path / "source")
    with pytest.raises(UsageError, match="--method core"):
        surgery.reparam(source, tmp_path / "out", method="diagonal")
    assert not (tmp_path / "out").exists()


def cases() -> list[Any]:
    """Both on every model; dtypes and shards go around, one model takes every dtype."""
    found = []
    for i, form in enumerate(FORMS):
        for j, name in enumerate(TINY):
            for k, dtype in enumerate(DTYPES):
                if name != "qwen2" and (i + j + k) % 3 != 0:
                    continue
                if form == "diagonal" and name in FUSED:
                    continue
                sharded = (i + j) % 2 == 0
                label = f"{form}-{name}-{dtype}-{'shards' if sharded else 'single'}"
                found.append(pytest.param(form, name, dtype, sharded, id=label))
    return found


@pytest.mark.parametrize(("form", "name", "dtype", "sharded"), cases())
def test_start_tuning_and_merging_compute_what_the_oracle_computes(
    form: str, name: str, dtype: str, sharded: bool, tmp_path: Path
) -> None:
    source = save_tiny(name, tmp_path / "source", dtype=dtype, sharded=sharded)
    transposed = name.startswith("gpt2")
    up = {"up_block": 7} if form == "core" else {}  # 7 divides nothing here
    report = surgery.reparam(source, tmp_path / "out", method=form, **up)

    # At the start it is the original, but for what the cast costs.
    original = stock(source, name)
    started = run(surgery.load(tmp_path / "out", dtype=torch.float64))
    assert relative_error(started, run(original)) <= 3 * measured_rounding(original, DTYPES[dtype])
    assert max(one.start_error or 0.0 for one in report.linears) <= 16 * ROUNDING[dtype]
    parts = {key: t for key, t in tensors_of(tmp_path / "out").items() if key.endswith(PART[form])}
    assert report.trainable is not None
    assert report.trainable.trainable == sum(part.numel() for part in parts.values())
    assert {part.dtype for part in parts.values()} == {torch.float32}
    assert {one.path for one in report.linears} == {key.rpartition(".")[0] for key in parts}

    # Tuned, the runtime computes what dense oracle tensors compute in a stock model.
    tuned = perturb(surgery.load(tmp_path / "out", dtype="auto"))
    tuned.save_pretrained(tmp_path / "tuned")
    tensors = oracle(tmp_path / "tuned", transposed)
    dense = stock(source, name)
    dense.load_state_dict(tensors, strict=False)
    expected = run(dense)
    assert relative_error(run(surgery.load(tmp_path / "tuned", dtype=torch.float64)), expected) <= (
        1e-11
    )
    assert relative_error(expected, run(original)) > 1e-3  # it did move

    # Merged: the oracle's tensors, rounded once, under the original's names and nothing else.
    merged = surgery.merge(tmp_path / "tuned", tmp_path / "merged")
    before, after = tensors_of(source), tensors_of(merged)
    assert {key: (t.shape, t.dtype) for key, t in after.items()} == {
        key: (t.shape, t.dtype) for key, t in before.items()
    }
    for key, tensor in after.items():
        excess = (tensor.double() - tensors[key]).abs() - 1.01 * ROUNDING[dtype] * tensors[
            key
        ].abs()
        assert excess.max() <= 1e-7 * tensors[key].abs().max(), key
    assert "surgery" not in config_of(merged)
    assert relative_error(run(stock(merged, name)), expected) <= 100 * ROUNDING[dtype]
    found = surgery.verify(tmp_path / "tuned", merged, weights_only=True)
    assert found.worst <= 8 * ROUNDING[dtype]
    assert found.changed == []


PRUNED = [
    ("core", "whisper", "ragged"),
    ("diagonal", "whisper", "block"),
    ("core", "bert-masked", "block"),
    ("diagonal", "gpt2", "ragged"),
    ("core", "llama-biased-tied", "ragged"),
    ("diagonal", "qwen2-mixed-layers", "ragged"),
    ("core", "mistral-window-wide", "block"),
]


@pytest.mark.parametrize(("form", "name", "layout"), PRUNED)
def test_a_pruned_checkpoint_is_tuned_and_merged_back_step_by_step(
    form: str, name: str, layout: str, tmp_path: Path
) -> None:
    # Rows that merely were cut: factors are neither orthogonal nor sorted, as after calibration.
    pruned = make_case(name, layout, tmp_path / "pruned", dtype=torch.float32).path
    surgery.reparam(pruned, tmp_path / "out", method=form)
    before = run(surgery.load(pruned, dtype=torch.float64))
    assert relative_error(run(surgery.load(tmp_path / "out", dtype=torch.float64)), before) <= 1e-5
    assert [each["method"] for each in config_of(tmp_path / "out")["surgery"]["operations"]] == [
        "absorb-decompose",
        form,
    ]
    tuned = perturb(surgery.load(tmp_path / "out", dtype="auto"))
    tuned.save_pretrained(tmp_path / "tuned")
    expected = run(surgery.load(tmp_path / "tuned", dtype=torch.float64))
    assert relative_error(expected, before) > 1e-3

    one = surgery.merge(tmp_path / "tuned", tmp_path / "one", steps=1)
    assert relative_error(run(surgery.load(one, dtype=torch.float64)), expected) <= 1e-5
    assert {key: t.shape for key, t in tensors_of(one).items()} == {
        key: t.shape for key, t in tensors_of(pruned).items()
    }
    kind = type(MODELS[name]())
    for start, out in ((one, "two"), (tmp_path / "tuned", "at-once")):
        dense = surgery.merge(start, tmp_path / out)
        plain = kind.from_pretrained(dense, dtype=torch.float64)
        assert relative_error(run(plain), expected) <= 1e-5
