"""An adapter on its base is the tuned model, however it is read: loaded, merged or compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

import surgery
from surgery.checkpoint.resolve import resolve
from surgery.errors import UsageError
from surgery.micro.assets import DIRECTORY as MICRO
from surgery.runtime.parts import FLOAT32_PARTS, LINEAR_METHODS
from surgery.stored.adapter import read_adapter, write_adapter
from tests.engine.support import config_of, run, save_tiny, tensors_of
from tests.models import model_class
from tests.runtime.naive import relative_error
from tests.training.adapters import add_parts, moved, replace_parts, widened

pytestmark = pytest.mark.usefixtures("no_pictures")

ON = {
    method: ("whisper", "bert-unprefixed") if index % 2 else ("gpt2", "llama-biased")
    for index, method in enumerate(LINEAR_METHODS)
}
"""Models that each method is tried on: plain and transposed weights take turns."""
BESIDE = ("k_proj.bias", "v_proj.bias", "norm.weight", "c_attn.bias", "ln_1.weight", "key.bias")
"""What is trained beside the parts: biases of the maps that carry them, and norms."""


def methods_of(directory: Path) -> list[str]:
    block = config_of(directory).get("surgery", {"operations": []})
    return [operation["method"] for operation in block["operations"]]


def stock(directory: Path, name: str) -> Any:
    return model_class(name).from_pretrained(directory, dtype=torch.float64)


@pytest.mark.parametrize(("method", "name"), [(m, name) for m in ON for name in ON[m]])
def test_new_parts_load_and_merge_as_the_tuned_model(
    method: str, name: str, tmp_path: Path
) -> None:
    narrow = save_tiny(name, tmp_path / "narrow", dtype="bf16", sharded=True)
    wide = widened(save_tiny(name, tmp_path / "same", dtype="bf16"), tmp_path / "wide")
    for base in (narrow, wide):
        add_parts(tmp_path / f"on-{base.name}", method, base, *BESIDE)

    # Nothing is rounded in float64: plain weights compute what the parts compute beside theirs.
    tuned = surgery.load(tmp_path / "on-wide", dtype=torch.float64)
    assert type(tuned).__name__ == model_class(name).__name__
    expected = run(tuned)
    merged = surgery.merge(tmp_path / "on-wide", tmp_path / "merged-wide")
    assert methods_of(merged) == []
    assert relative_error(run(stock(merged, name)), expected) <= 1e-11
    assert relative_error(run(stock(wide, name)), expected) > 1e-3

    # In 16 bits it is the same, rounded once, in the base's own shards.
    after = surgery.merge(tmp_path / "on-narrow", tmp_path / "merged-narrow")
    assert {file.name for file in after.glob("*.safetensors")} == {
        file.name for file in narrow.glob("*.safetensors")
    }
    exact, found = tensors_of(merged), tensors_of(after)
    assert exact.keys() == found.keys() == tensors_of(narrow).keys()
    for key, tensor in found.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, exact[key].to(torch.bfloat16)), key


@pytest.mark.parametrize(("method", "name"), [(m, ON[m][0]) for m in ON])
def test_parts_that_the_base_has_are_replaced(method: str, name: str, tmp_path: Path) -> None:
    dense = widened(save_tiny(name, tmp_path / "tiny"), tmp_path / "dense")
    adapter = add_parts(tmp_path / "first", method, dense)
    base = surgery.merge(adapter, tmp_path / "base", steps=0)  # the parts, in a checkpoint
    assert methods_of(base) == [method]
    before = run(surgery.load(base, dtype=torch.float64))
    assert torch.equal(before, run(surgery.load(adapter, dtype=torch.float64)))

    parts = tuple(f".{part}" for part in LINEAR_METHODS[method].parts)
    tuned = replace_parts(tmp_path / "tuned", base, *parts, *BESIDE)
    read = read_adapter(tuned)
    assert read.operation is None
    assert read.trained["parameters"] == sum(info.numel for info in read.infos.values())
    model = surgery.load(tuned, dtype=torch.float64)
    expected = run(model)
    assert relative_error(before, expected) > 1e-3

    # By hand: the base's model, every tensor of the adapter put where its name says.
    by_hand = surgery.load(base, dtype=torch.float64)
    by_hand.load_state_dict(
        {key: tensor.double() for key, tensor in tensors_of(tuned).items()}, strict=False
    )
    assert torch.equal(run(by_hand), expected)
    merged = surgery.merge(tuned, tmp_path / "merged")
    assert relative_error(run(stock(merged, name)), expected) <= 1e-11
    untouched = tensors_of(dense).keys() - read.infos.keys()
    for key in untouched - {f"{path}.{end}" for path in sites(base) for end in ("weight", "bias")}:
        assert torch.equal(tensors_of(merged)[key], tensors_of(dense)[key]), key


def sites(directory: Path) -> set[str]:
    return {
        path
        for operation in config_of(directory)["surgery"]["operations"]
        for path in operation["sites"]
    }


@pytest.mark.parametrize("method", LINEAR_METHODS)
def test_one_step_back_from_a_tuned_pruned_model_is_a_pruned_model(
    method: str, tmp_path: Path
) -> None:
    source = save_tiny("llama-biased", tmp_path / "model")
    cut = surgery.Options(rule=surgery.Remove(0.25), pairs=("vo",), by_weights=True)
    surgery.absorb_decompose(source, tmp_path / "cut", options=cut)
    pruned = widened(tmp_path / "cut", tmp_path / "pruned")
    tuned = add_parts(tmp_path / "tuned", method, pruned, *BESIDE)
    expected = run(surgery.load(tuned, dtype=torch.float64))

    one = surgery.merge(tuned, tmp_path / "one", steps=1)
    assert methods_of(one) == ["absorb-decompose"]
    shapes = [{key: t.shape for key, t in tensors_of(each).items()} for each in (one, pruned)]
    assert shapes[0] == shapes[1]
    assert relative_error(run(surgery.load(one, dtype=torch.float64)), expected) <= 1e-11
    dense = surgery.merge(tuned, tmp_path / "dense")
    assert relative_error(run(stock(dense, "llama-biased")), expected) <= 1e-11


def test_a_loaded_adapter_is_a_model_like_any_other(tmp_path: Path) -> None:
    base = save_tiny("llama", tmp_path / "base")
    adapter = add_parts(tmp_path / "tuned", "sorsa", base, "lm_head.weight", "norm.weight")
    model = surgery.load(adapter)
    expected = run(model)
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(run(surgery.load(tmp_path / "saved")), expected)
    half = model.to(torch.bfloat16)
    assert {each.dtype for name, each in half.named_parameters() if name.endswith("sorsa_s")} == {
        torch.float32
    }
    body = surgery.load(adapter, model_class=AutoModel)  # has no place for the trained head
    assert sum(name.endswith(tuple(FLOAT32_PARTS)) for name, _ in body.named_parameters()) > 0
    one = surgery.load(adapter, dtype="auto", attn_implementation="eager")
    assert one.config._attn_implementation == "eager"


def test_a_base_that_moved_is_named(tmp_path: Path) -> None:
    base = save_tiny("gpt2", tmp_path / "here" / "base")
    adapter = replace_parts(tmp_path / "here" / "tuned", base, "ln_f.weight")
    expected = run(surgery.load(adapter))
    (tmp_path / "here").rename(tmp_path / "there")  # together: the way between them is the same
    adapter = tmp_path / "there" / "tuned"
    assert torch.equal(run(surgery.load(adapter)), expected)
    base = (tmp_path / "there" / "base").rename(tmp_path / "elsewhere")
    assert torch.equal(run(surgery.load(adapter, base=base)), expected)
    merged = surgery.merge(adapter, base=base)
    assert merged == adapter.with_name("tuned-merged")
    assert torch.equal(run(model_class("gpt2").from_pretrained(merged)), expected)
    assert (merged / "vocab.json").exists()
    card = (merged / "README.md").read_text()
    assert "--base ./elsewhere" in card and str(tmp_path) not in card


def test_evaluate_and_verify_take_an_adapter_for_its_merged_model(tmp_path: Path) -> None:
    endings = ("decoder.layers.0.fc1.bias", "decoder.layers.1.fc1.weight")
    (tmp_path / "tuned").mkdir()
    with resolve("whisper-micro") as source:
        write_adapter(
            tmp_path / "tuned", moved(source, *endings, by=0.05), base=source, method="some"
        )
    assert read_adapter(tmp_path / "tuned").base_path is None  # its name leads there
    models = ["whisper-micro", tmp_path / "tuned", surgery.merge(tmp_path / "tuned")]
    found = surgery.evaluate(models, MICRO / "test", limit=2, resamples=20)
    assert [model.name for model in found.models] == ["whisper-micro", "tuned", "tuned-merged"]
    _, adapted, merged = found.rows
    assert adapted.figures["wer"] == merged.figures["wer"]
    for tower, errors in adapted.layers.items():  # the base is stored in float16
        assert errors == pytest.approx(merged.layers[tower], rel=2**-11)
    assert adapted.layers["decoder"][-1] > 0.01

    moved_weights = surgery.verify("whisper-micro", tmp_path / "tuned", weights_only=True)
    assert moved_weights.worst > 1e-2
    assert [name.split("decoder.")[1] for name in moved_weights.changed] == ["layers.0.fc1.bias"]
    assert surgery.verify(tmp_path / "tuned", models[2], weights_only=True).worst < 1e-14


def test_what_an_adapter_was_trained_on_does_not_measure_it(tmp_path: Path) -> None:
    from surgery.evaluation.fingerprints import data_fingerprints

    prints = data_fingerprints(MICRO / "test", "audio")
    samples = sorted(each for found in prints.values() for each in found)
    provenance = {"data": {"name": "micro/test", "kind": "audio", "samples": samples}}
    (tmp_path / "tuned").mkdir()
    with resolve("whisper-micro") as source:
        tensors = moved(source, "decoder.layer_norm.bias")
        write_adapter(
            tmp_path / "tuned", tensors, base=source, method="norms", provenance=provenance
        )
    with pytest.raises(UsageError, match="some of the data"):
        surgery.evaluate(tmp_path / "tuned", MICRO / "test", limit=1)
