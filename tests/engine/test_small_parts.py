"""Splits and re-parameterisations: the same function at the start, and merged what they compute.

Oracles are dense products in float64 (``linear_oracles``) and stock transformers on them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import surgery
from surgery.choices.parts import PARTS
from surgery.errors import CheckpointError, UsageError
from surgery.report.model.report import Report
from surgery.runtime.parts import FLOAT32_PARTS
from tests.engine.linear_oracles import dense_weight
from tests.engine.support import DTYPES, config_of, contents, run, save_tiny, tensors_of
from tests.models import TINY, family_of, model_class
from tests.runtime.naive import relative_error

SETTINGS = {"rank": 5, "reflections": 4}
METHODS: dict[str, Callable[..., Report]] = {
    name: partial(
        getattr(surgery, part.command),
        method=name,
        **{key: value for key, value in SETTINGS.items() if key in part.settings},
    )
    for name, part in PARTS.items()
    if part.treatment is not None
}
pytestmark = pytest.mark.usefixtures("no_pictures")

ROUNDING = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}  # half a unit, relative


def all_roles(name: str) -> list[str]:
    return ["q", "k", "v", "o", *family_of(name).linears]


def stock(directory: Path, name: str) -> Any:
    return model_class(name).from_pretrained(directory, dtype=torch.float64)


def treated(directory: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Method and entry of every treated map, read from config.json alone."""
    return {
        path: (operation["method"], entry)
        for operation in config_of(directory)["surgery"]["operations"]
        if operation["method"] != "absorb-decompose"
        for path, entry in operation["sites"].items()
    }


def oracle_weights(directory: Path, transposed: bool) -> dict[str, Tensor]:
    """The dense weight of every treated map, as it would be stored, float64."""
    tensors = tensors_of(directory)
    found = {}
    for path, (method, entry) in treated(directory).items():
        stored = tensors[f"{path}.weight"]
        parts = {
            name.removeprefix(f"{path}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{path}.{method}_")
        }
        dense = dense_weight(method, entry, stored.T if transposed else stored, parts)
        found[f"{path}.weight"] = dense.T if transposed else dense
    return found


@torch.no_grad()
def perturb(model: Any, size: float = 0.2) -> Any:
    """Move every small part well away from its start, each by its own scale."""
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in FLOAT32_PARTS:
            assert parameter.dtype == torch.float32
            scale = parameter.square().mean().sqrt() or 1.0
            parameter.add_(torch.randn_like(parameter) * scale * size)
    return model


def cases() -> list[Any]:
    """Every method in every dtype, and on every kind of storage; models and the rest go around.

    The kinds of storage are plain, grouped heads, fused and transposed: a model of each takes every
    method, and every other model half of them.
    """
    found = []
    for i, method in enumerate(METHODS):
        for j, name in enumerate(TINY):
            for k, dtype in enumerate(DTYPES):
                if (i + j + k) % 3 != 0:
                    continue
                if name not in ("whisper", "llama", "gpt2") and (i + j // 3) % 2 != 0:
                    continue
                scale = 0.5 if method in ("sorsa", "pissa") and (j + 2 * k) % 3 == 0 else None
                sharded = (i + j) % 2 == 0
                label = f"{method}-{name}-{dtype}-{'shards' if sharded else 'single'}"
                found.append(pytest.param(method, name, dtype, sharded, scale, id=label))
    return found


@pytest.mark.parametrize(("method", "name", "dtype", "sharded", "scale"), cases())
def test_start_tuning_and_merging_compute_what_the_oracle_computes(
    method: str, name: str, dtype: str, sharded: bool, scale: float | None, tmp_path: Path
) -> None:
    source = save_tiny(name, tmp_path / "source", dtype=dtype, sharded=sharded)
    transposed = name.startswith("gpt2")
    scaled = {} if scale is None else {"scale": scale}
    report = METHODS[method](source, tmp_path / "out", targets=all_roles(name), **scaled)

    # At the start every weight is the original's, but for one rounding of what stays frozen.
    before = tensors_of(source)
    start = oracle_weights(tmp_path / "out", transposed)
    inside = {key for key in before if key.endswith(".weight") and before[key].dim() == 2}
    assert {key for key in inside if any(part.isdigit() for part in key.split("."))} == set(start)
    frozen = tensors_of(tmp_path / "out")
    for key, weight in start.items():
        # One rounding of the residual; float32 arithmetic where the weight itself stays.
        share = ROUNDING[dtype] if method in ("sorsa", "pissa") else 0.0
        excess = (weight - before[key].double()).abs() - share * frozen[key].double().abs()
        assert excess.max() <= 4e-6 * before[key].double().abs().max(), key
    worst = max(one.start_error or 0.0 for one in report.linears)
    assert worst <= ROUNDING[dtype] + 1e-6

    # Tuned, the runtime computes what dense oracle weights compute in a stock model.
    tuned = perturb(surgery.load(tmp_path / "out", dtype="auto"))
    assert tuned.dtype == DTYPES[dtype]
    tuned.save_pretrained(tmp_path / "tuned")
    weights = oracle_weights(tmp_path / "tuned", transposed)
    dense = stock(source, name)
    with torch.no_grad():
        for key, weight in weights.items():
            module = dense.get_submodule(key.removesuffix(".weight"))
            module.weight.copy_(weight)
    expected = run(dense)
    found = run(surgery.load(tmp_path / "tuned", dtype=torch.float64))
    assert relative_error(found, expected) <= 1e-11
    assert relative_error(expected, run(stock(source, name))) > 1e-3  # it did move

    # Merged: the oracle's weights, rounded once, under the original's names and nothing else.
    merged = surgery.merge(tmp_path / "tuned", tmp_path / "merged")
    after = tensors_of(merged)
    assert {key: (t.shape, t.dtype) for key, t in after.items()} == {
        key: (t.shape, t.dtype) for key, t in before.items()
    }
    for key, weight in weights.items():
        excess = (after[key].double() - weight).abs() - 1.01 * ROUNDING[dtype] * weight.abs()
        assert excess.max() <= 1e-7 * weight.abs().max(), key
    for key in before.keys() - weights.keys():
        assert torch.equal(after[key], before[key]), key
    assert "surgery" not in config_of(merged)
    assert relative_error(run(stock(merged, name)), expected) <= 100 * ROUNDING[dtype]


@pytest.mark.parametrize("name", ["whisper", "llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_pruned_checkpoint_is_split_and_merged_back_step_by_step(
    name: str, dtype: str, tmp_path: Path
) -> None:
    source = save_tiny(name, tmp_path / "source", dtype=dtype)
    pairs = ("vo",) if name == "llama" else ("qk", "vo")
    cut = surgery.Options(rule=surgery.Remove(0.25), scope="all", pairs=pairs, by_weights=True)
    surgery.absorb_decompose(source, tmp_path / "pruned", options=cut)
    surgery.split(tmp_path / "pruned", tmp_path / "split", rank=3, targets=["o", "up"])
    surgery.reparam(tmp_path / "split", tmp_path / "both", method="hra", targets=["down"])
    assert [each["method"] for each in config_of(tmp_path / "both")["surgery"]["operations"]] == [
        "absorb-decompose",
        "sorsa",
        "hra",
    ]
    tuned = perturb(surgery.load(tmp_path / "both", dtype="auto"))
    tuned.save_pretrained(tmp_path / "tuned")
    expected = run(surgery.load(tmp_path / "tuned", dtype=torch.float64))
    allowed = 100 * ROUNDING[dtype]

    one = surgery.merge(tmp_path / "tuned", tmp_path / "one", steps=1)
    assert {method for method, _ in treated(one).values()} == {"sorsa"}
    assert relative_error(run(surgery.load(one, dtype=torch.float64)), expected) <= allowed
    two = surgery.merge(one, tmp_path / "two", steps=1)
    assert treated(two) == {}
    shapes = {key: tensor.shape for key, tensor in tensors_of(two).items()}
    assert shapes == {key: t.shape for key, t in tensors_of(tmp_path / "pruned").items()}
    assert relative_error(run(surgery.load(two, dtype=torch.float64)), expected) <= allowed
    three = surgery.merge(two, tmp_path / "three")
    assert relative_error(run(stock(three, name)), expected) <= allowed

    # All steps at once round once, and end in the same shapes.
    at_once = surgery.merge(tmp_path / "tuned", tmp_path / "at-once")
    assert relative_error(run(stock(at_once, name)), expected) <= allowed
    assert {key: t.shape for key, t in tensors_of(at_once).items()} == {
        key: t.shape for key, t in tensors_of(three).items()
    }
    found = surgery.verify(tmp_path / "tuned", at_once, weights_only=True)
    assert found.worst <= 8 * ROUNDING[dtype]
    with pytest.raises(UsageError, match="not as many operations"):
        surgery.merge(tmp_path / "tuned", tmp_path / "four", steps=4)


def test_small_parts_stay_float32_whatever_the_model_is_cast_to(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source", dtype="bf16")
    surgery.split(source, tmp_path / "out", rank=4)
    for dtype in (torch.bfloat16, torch.float16):
        model = surgery.load(tmp_path / "out", dtype=dtype)
        assert model.model.layers[0].mlp.up_proj.sorsa_u.dtype == torch.float32
        assert model.model.layers[0].mlp.up_proj.weight.dtype == dtype
    model = surgery.load(tmp_path / "out").to(torch.bfloat16)
    part = model.model.layers[0].mlp.up_proj.sorsa_u
    assert part.dtype == torch.float32
    assert torch.equal(part, tensors_of(tmp_path / "out")["model.layers.0.mlp.up_proj.sorsa_u"])


def test_the_same_seed_gives_the_same_bytes_and_shards_do_not_matter(tmp_path: Path) -> None:
    source = save_tiny("whisper", tmp_path / "source")
    sharded = save_tiny("whisper", tmp_path / "sharded", sharded=True)
    for out, given in (("a", source), ("b", source), ("c", sharded)):
        surgery.reparam(given, tmp_path / out, method="hra", seed=7)
    assert (
        contents(tmp_path / "a")["model.safetensors"]
        == (contents(tmp_path / "b")["model.safetensors"])
    )
    one, other = tensors_of(tmp_path / "a"), tensors_of(tmp_path / "c")
    assert all(torch.equal(one[key], other[key]) for key in one)
    surgery.reparam(source, tmp_path / "d", method="hra", seed=8)
    assert contents(tmp_path / "a") != contents(tmp_path / "d")


def test_targets_and_scope_choose_the_maps(tmp_path: Path) -> None:
    source = save_tiny("whisper", tmp_path / "source")
    report = surgery.split(source, rank=2, targets=["q", "up"], scope="encoder", dry_run=True)
    assert {(one.role, one.scope) for one in report.linears} == {
        ("q", "encoder"),
        ("up", "encoder"),
    }
    cross = surgery.reparam(source, scope="cross", dry_run=True)
    assert {(one.role, one.scope) for one in cross.linears} == {("q", "cross"), ("v", "cross")}
    assert report.output is None
    assert not (tmp_path / "out").exists()


def test_a_fused_map_is_treated_whole(tmp_path: Path) -> None:
    source = save_tiny("gpt2", tmp_path / "source")
    report = surgery.reparam(source, method="hra", dry_run=True)
    assert {one.role for one in report.linears} == {"q,k,v"}
    assert any("fused" in note for note in report.notes)
    with pytest.raises(UsageError, match="one fused map"):
        surgery.split(source, tmp_path / "out", rank=2, targets=["q", "v"])


def test_the_report_counts_what_is_there(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source", dtype="bf16")
    report = surgery.split(source, tmp_path / "out", rank=4, targets=["q", "down"])
    before, after = tensors_of(source), tensors_of(tmp_path / "out")
    parts = {key: tensor for key, tensor in after.items() if "sorsa_" in key}
    trainable = report.trainable
    assert trainable is not None
    assert trainable.trainable == sum(tensor.numel() for tensor in parts.values())
    assert trainable.total == sum(tensor.numel() for tensor in after.values())
    assert trainable.before == sum(tensor.numel() for tensor in before.values())
    assert trainable.bytes_after == sum(tensor.nbytes for tensor in after.values())
    assert trainable.adapter_bytes == sum(tensor.nbytes for tensor in parts.values())
    for one in report.linears:
        weight = before[f"{one.path}.weight"].double()
        assert one.trainable == 4 * (weight.shape[0] + weight.shape[1] + 1)
        singular = torch.linalg.svdvals(weight)
        best = float(singular[:4].square().sum() / singular.square().sum())
        assert one.captured is not None
        assert one.shortfall is not None
        assert one.captured >= best * (1 - one.shortfall) - 1e-6
        assert torch.allclose(
            torch.tensor(one.spectrum, dtype=torch.float64), singular[:4], rtol=1e-3
        )


def test_done_already_and_refused_twice(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    surgery.split(source, tmp_path / "out", rank=2, targets=["q"])
    again = surgery.split(source, tmp_path / "out", rank=2, targets=["q"])
    assert any("Already done" in note for note in again.notes)
    with pytest.raises(CheckpointError, match="one small part"):
        surgery.reparam(tmp_path / "out", tmp_path / "more", method="goft")
    with pytest.raises(CheckpointError, match="restructured already"):
        surgery.absorb_decompose(tmp_path / "out", tmp_path / "cut")
    more = surgery.reparam(tmp_path / "out", tmp_path / "more", method="goft", targets=["v"])
    assert more.trainable is not None
    assert {method for method, _ in treated(tmp_path / "more").values()} == {"sorsa", "goft"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "not positive"),
        ({"rank": 33}, "exceeds 32"),
        ({"rank": 2, "targets": ["gate", "banana"]}, "not one of its choices"),
        ({"rank": 2, "targets": []}, "names no role"),
        ({"rank": 2, "scope": "encoder"}, "no encoder blocks"),
        ({"rank": 2, "scale": 0.0}, "not a positive number"),
        ({"rank": 2, "tolerance": 1.5}, "not between"),
        ({"rank": 2, "method": "hra"}, "not one of its choices"),
        ({"rank": 2, "dtype": "int8"}, "not one of its choices"),
    ],
)
def test_options_that_cannot_be_had_are_refused_before_anything_is_written(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = save_tiny("llama", tmp_path / "source")
    with pytest.raises(UsageError, match=message):
        surgery.split(source, tmp_path / "out", **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("reflections", [1, 3, 70])
def test_reflections_that_do_not_cancel_or_fit_are_refused(
    reflections: int, tmp_path: Path
) -> None:
    source = save_tiny("llama", tmp_path / "source")
    with pytest.raises(UsageError):
        surgery.reparam(source, tmp_path / "out", method="hra", reflections=reflections)
    with pytest.raises(UsageError, match="no use for --reflections"):
        surgery.reparam(source, tmp_path / "out", method="goft", reflections=2)


def test_parts_that_do_not_fit_their_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source = save_tiny("llama", tmp_path / "source")
    surgery.split(source, tmp_path / "out", rank=2, targets=["q"])
    tensors = tensors_of(tmp_path / "out")
    name = next(key for key in tensors if key.endswith("sorsa_s"))
    save_file({**tensors, name: torch.zeros(3)}, tmp_path / "out" / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not fit its weight"):
        surgery.merge(tmp_path / "out", tmp_path / "merged")
    del tensors[name]
    save_file(tensors, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
    for read in (
        lambda: surgery.merge(tmp_path / "out", tmp_path / "merged"),
        lambda: surgery.load(tmp_path / "out"),
    ):
        with pytest.raises(CheckpointError):
            read()
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    "name",
    [
        "transformer.h.0.attn.c_attn.weight",
        "transformer.h.1.attn.c_proj.bias",
        "transformer.h.1.mlp.c_fc.weight",
        "transformer.h.1.mlp.c_fc.sorsa_s",
        "transformer.ln_f.weight",
    ],
)
def test_what_is_not_finite_is_not_merged_and_not_compared(name: str, tmp_path: Path) -> None:
    source = save_tiny("gpt2", tmp_path / "source")
    rule = surgery.Options(rule=surgery.Remove(0.25), by_weights=True)
    surgery.absorb_decompose(source, tmp_path / "cut", options=rule)
    surgery.split(tmp_path / "cut", tmp_path / "split", rank=2, targets=["up"])
    tensors = tensors_of(tmp_path / "split")
    tensors[name].view(-1)[3 % tensors[name].numel()] = float("nan")
    save_file(tensors, tmp_path / "split" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"(?s)not finite.*{name}"):
        surgery.merge(tmp_path / "split", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    if name != "transformer.ln_f.weight":  # of which verify only says that it changed
        with pytest.raises(CheckpointError, match=f"(?s)not finite.*{name}"):
            surgery.verify(source, tmp_path / "split", weights_only=True)
