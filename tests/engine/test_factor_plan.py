"""Which heads and rows get cores or singular values, and what is refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import surgery
from surgery.checkpoint.header import TensorInfo
from surgery.checkpoint.source import TensorSource
from surgery.engine.parts.factor_options import FactorOptions
from surgery.engine.parts.factor_plan import make_factor_plan
from surgery.errors import CheckpointError, UsageError
from tests.engine.support import config_of, save_tiny, tensors_of

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.mark.parametrize(
    ("name", "pairs", "scope", "expected"),
    [
        ("whisper", ["vo"], "encoder", {("v", "encoder"): [8] * 4}),
        ("whisper", ["qk"], "cross", {("k", "cross"): [16] * 2}),
        ("gpt2", ["vo"], "all", {("q,k,v", "decoder"): [8] * 4}),
        ("gpt2", None, "all", {("q,k,v", "decoder"): [8] * 8}),
    ],
)
def test_pairs_and_scope_choose_the_heads(
    name: str, pairs: Any, scope: Any, expected: dict[Any, list[int]], tmp_path: Path
) -> None:
    source = save_tiny(name, tmp_path / "source")
    report = surgery.reparam(source, tmp_path / "out", method="core", pairs=pairs, scope=scope)
    assert {(one.role, one.scope) for one in report.linears} == set(expected)
    (blocks,) = expected.values()
    sites = config_of(tmp_path / "out")["surgery"]["operations"][-1]["sites"]
    assert {tuple(entry["blocks"]) for entry in sites.values()} == {tuple(blocks)}
    offset = {None: 32, ("vo",): 64}[pairs and tuple(pairs)] if name == "gpt2" else 0
    assert {entry["offset"] for entry in sites.values()} == {offset}
    before, after = tensors_of(source), tensors_of(tmp_path / "out")
    for key, tensor in before.items():
        if not any(key.startswith(path.rpartition(".")[0]) for path in sites):
            assert torch.equal(after[key], tensor), key


def test_rotary_models_get_cores_behind_up_unless_asked_otherwise(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    usual = surgery.reparam(source, tmp_path / "out", method="core")
    assert {one.role for one in usual.linears} == {"k", "v", "up"}
    # Wider than the map has inputs: as many rows as there are.
    entry = config_of(tmp_path / "out")["surgery"]["operations"][-1]
    assert entry["sites"]["model.layers.0.mlp.up_proj"] == {"blocks": [32, 8], "offset": 0}
    assert entry["options"]["up_block"] == 64
    none = surgery.reparam(source, method="core", up_block=0, dry_run=True)
    assert {one.role for one in none.linears} == {"k", "v"}
    assert {
        one.role for one in surgery.reparam(source, method="diagonal", dry_run=True).linears
    } == {
        "k",
        "v",
    }


def test_llama_2_7b_has_the_papers_number_of_cores() -> None:
    config = transformers.LlamaConfig()  # its defaults are LLaMA-2-7B's
    assert (config.hidden_size, config.intermediate_size) == (4096, 11008)
    with torch.device("meta"):
        tensors = transformers.LlamaForCausalLM(config).state_dict()
    infos = {
        name: TensorInfo(name, torch.float16, tuple(tensor.shape), "model.safetensors", 0, 0)
        for name, tensor in tensors.items()
    }
    # Nothing is read: shapes alone decide.
    kind: Any = type("Headers", (TensorSource,), dict.fromkeys(TensorSource.__abstractmethods__))
    source = kind("llama", None, config.to_dict(), infos, {})
    plan = make_factor_plan(source, FactorOptions("core"))
    specs = [spec for shard in plan.specs().values() for spec in shard]
    trained = sum(spec.numel for spec in specs if spec.name.endswith("core_blocks"))
    whole = sum(spec.numel for spec in specs)
    # 32 layers of k and v, 32 heads of 128² each, and 172 blocks of 64² behind up.
    assert trained == 32 * (2 * 32 * 128**2 + 172 * 64**2) == 56_098_816
    assert round(trained / (whole - trained), 4) == 0.0083  # the paper's 0.83 %


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "core", "reflections": 4}, "no use for --reflections"),
        ({"method": "diagonal", "targets": ["q"]}, "no use for --targets"),
        ({"method": "hra", "pairs": ["qk"]}, "no use for --seams"),
        ({"method": "goft", "up_block": 64}, "no use for --up-block"),
        ({"method": "core", "pairs": []}, "names no pair"),
        ({"method": "core", "pairs": ["kv"]}, "not one of its choices"),
        ({"method": "core", "up_block": -1}, "negative"),
        ({"method": "diagonal", "up_block": 64}, "no singular values"),
        ({"method": "core", "scope": "encoder"}, "no encoder attention"),
        ({"method": "cores"}, "not one of its choices"),
    ],
)
def test_options_that_cannot_be_had_are_refused_before_anything_is_written(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = save_tiny("llama", tmp_path / "source")
    with pytest.raises(UsageError, match=message):
        surgery.reparam(source, tmp_path / "out", **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_maps_whose_weights_would_change_carry_nothing_yet(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    surgery.split(source, tmp_path / "split", rank=2, targets=["o"])
    with pytest.raises(CheckpointError, match="one small part"):
        surgery.reparam(tmp_path / "split", tmp_path / "out", method="core")
    # Queries stay as they are under RoPE: theirs do not matter.
    both = surgery.reparam(tmp_path / "split", tmp_path / "out", method="core", pairs=["qk"])
    assert {one.role for one in both.linears} == {"k", "up"}
