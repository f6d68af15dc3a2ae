"""What `surgery.load` gives, saves again, and refuses."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import modeling_utils
from transformers.models.llama import modeling_llama

import surgery
from surgery.errors import CheckpointError
from tests.runtime.naive import (
    MODELS,
    Case,
    dense_model,
    inputs,
    outputs,
    relative_error,
    strip_prefix,
    tolerance,
)

Make = Callable[..., Case]


def edit(case: Case, **changes: Any) -> None:
    case.write_config(case.config() | changes)


def rewrite(case: Case, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    file = case.path / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_loads_again_unchanged(own_case: Make, name: str, tmp_path: Path) -> None:
    made = own_case(name)
    model = surgery.load(made.path)
    again = tmp_path / "again"

    model.save_pretrained(again)
    loaded = surgery.load(again)

    config = json.loads((again / "config.json").read_text())
    assert config["architectures"] == made.config()["architectures"]
    assert config["surgery"] == made.config()["surgery"]
    first, second = (load_file(path / "model.safetensors") for path in (made.path, again))
    assert {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in second.items()}
    assert all(torch.equal(first[tensor], second[tensor]) for tensor in first)
    given = inputs(model)
    assert torch.equal(outputs(model, given), outputs(loaded, given))


@pytest.mark.parametrize("name", ["whisper", "llama", "gpt2"])
def test_a_sharded_save_loads_again_unchanged(own_case: Make, name: str, tmp_path: Path) -> None:
    model = surgery.load(own_case(name).path)

    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")

    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    given = inputs(model)
    assert torch.equal(outputs(surgery.load(tmp_path / "shards"), given), outputs(model, given))


@pytest.mark.parametrize(
    ("name", "prefix"), [("gpt2", "transformer."), ("bert-classifier", "bert.")]
)
def test_a_checkpoint_without_the_prefix_fits_a_class_with_it(
    own_case: Make, name: str, prefix: str, tmp_path: Path
) -> None:
    made = own_case(name)
    expected_class = type(made.oracle)
    given = inputs(made.oracle)
    strip_prefix(made, prefix)

    model = surgery.load(made.path, model_class=expected_class)
    expected = outputs(made.oracle, given)
    assert relative_error(outputs(model, given), expected) <= tolerance(torch.float32)

    model.save_pretrained(tmp_path / "again")
    again = surgery.load(tmp_path / "again")
    assert torch.equal(outputs(again, given), outputs(model, given))
    sites = json.loads((tmp_path / "again/config.json").read_text())["surgery"]["operations"][0]
    tensors = load_file(tmp_path / "again/model.safetensors")
    for path in sites["sites"]:  # what was saved speaks one language
        assert any(tensor.startswith(path + ".") for tensor in tensors), path


@pytest.mark.parametrize(
    ("name", "model_class", "base"),
    [
        ("bert-classifier", transformers.BertModel, "bert"),
        ("gpt2", transformers.GPT2Model, "transformer"),
        ("llama", transformers.LlamaModel, "model"),
        ("whisper", transformers.WhisperModel, "model"),
    ],
)
def test_a_checkpoint_with_the_prefix_fits_the_base_model(
    own_case: Make, name: str, model_class: Any, base: str
) -> None:
    made = own_case(name)

    model = surgery.load(made.path, model_class=model_class)

    given = inputs(made.oracle)
    expected = outputs(made.oracle.get_submodule(base), given)
    assert relative_error(outputs(model, given), expected) <= tolerance(torch.float32)


def test_an_auto_class_chooses_the_model_class(own_case: Make) -> None:
    made = own_case("llama")

    model = surgery.load(made.path, model_class=transformers.AutoModelForCausalLM)

    assert isinstance(model, transformers.LlamaForCausalLM)


def test_other_heads_of_a_published_bert_are_left_out(own_case: Make) -> None:
    made = own_case("bert-masked")
    rewrite(
        made,
        lambda t: t.update(
            {
                "bert.pooler.dense.weight": torch.zeros(32, 32),
                "cls.seq_relationship.bias": torch.zeros(2),
            }
        ),
    )

    assert isinstance(surgery.load(made.path), transformers.BertForMaskedLM)


def test_a_dense_directory_loads_as_the_stock_class(tmp_path: Path) -> None:
    dense = dense_model("llama", dtype=torch.float32)
    dense.save_pretrained(tmp_path)

    model = surgery.load(tmp_path)

    assert type(model) is transformers.LlamaForCausalLM
    assert torch.equal(outputs(model, inputs(model)), outputs(dense, inputs(dense)))


def test_without_architectures_the_base_model_of_the_type_is_loaded(tmp_path: Path) -> None:
    dense_model("bert-plain", dtype=torch.float32).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert type(surgery.load(tmp_path)) is transformers.BertModel


def test_a_restructured_model_is_its_stock_class_by_kind_and_name(own_case: Make) -> None:
    model = surgery.load(own_case("whisper").path)

    assert isinstance(model, transformers.WhisperForConditionalGeneration)
    assert type(model).__name__ == "WhisperForConditionalGeneration"
    assert not model.training
    assert model.can_generate()
    assert "WhisperForConditionalGeneration" not in vars(sys.modules["surgery.runtime.model"])


def test_loading_changes_nothing_in_transformers(own_case: Make) -> None:
    def state() -> list[Any]:
        auto = transformers.models.auto
        return [
            dict(vars(modeling_llama.LlamaAttention)),
            modeling_llama.LlamaForCausalLM.__init__,
            len(auto.modeling_auto.MODEL_MAPPING),
            list(modeling_utils.ALL_ATTENTION_FUNCTIONS.valid_keys()),
            auto.modeling_auto.MODEL_MAPPING._extra_content.copy(),
        ]

    before = state()
    surgery.load(own_case("llama").path)
    assert state() == before


def test_code_found_in_a_checkpoint_is_never_run(own_case: Make) -> None:
    made = own_case("llama")
    trap = "raise SystemExit('code of the checkpoint ran')\n"
    (made.path / "modeling_trap.py").write_text(trap)
    (made.path / "custom_generate").mkdir()
    (made.path / "custom_generate" / "generate.py").write_text(trap)
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
    edit(
        made,
        auto_map=dict.fromkeys(names, "modeling_trap.Trap"),
        architectures=["Trap", "LlamaForCausalLM"],
    )

    model = surgery.load(made.path)

    assert isinstance(model, transformers.LlamaForCausalLM)
    assert surgery.load(made.path, model_class=transformers.AutoModelForCausalLM)


def missing(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.layers.0.mlp.up_proj.weight"]


def unexpected(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.0.mlp.extra.weight"] = torch.zeros(2)


def mismatched(tensors: dict[str, torch.Tensor]) -> None:
    name = "model.layers.0.self_attn.v_proj.weight"
    tensors[name] = tensors[name][:-1].clone()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (missing, r"(?s)missing.*layers\.0\.mlp\.up_proj\.weight"),
        (unexpected, r"(?s)no place for.*layers\.0\.mlp\.extra\.weight"),
        (mismatched, r"(?s)other shapes.*v_proj\.weight \(\d+, 32\) instead of \(\d+, 32\)"),
    ],
)
@pytest.mark.parametrize("model_class", [None, transformers.LlamaForCausalLM])
def test_tensors_that_do_not_fit_are_an_error(
    own_case: Make, change: Any, message: str, model_class: Any
) -> None:
    made = own_case("llama")
    rewrite(made, change)

    with pytest.raises(CheckpointError, match=message):
        surgery.load(made.path, model_class=model_class)


def test_a_missing_head_is_an_error_and_never_random(own_case: Make) -> None:
    made = own_case("bert-plain")
    with pytest.raises(CheckpointError, match=r"(?s)missing.*classifier\.weight"):
        surgery.load(made.path, model_class=transformers.BertForSequenceClassification)


def broken(field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(block: dict[str, Any]) -> None:
        site = block["operations"][0]["sites"]["model.layers.0.self_attn"]
        target = {
            "format_version": block,
            "operations": block,
            "method": block["operations"][0],
            "sites": block["operations"][0],
        }.get(field, site)
        target[field] = value

    return change


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format_version", 2, "newer format"),
        ("format_version", None, "malformed"),
        ("format_version", True, "malformed"),
        ("operations", {}, "malformed"),
        ("method", "bonsai", "(?s)cannot run.*'bonsai'.*absorb-decompose"),
        ("sites", [], "malformed"),
        ("sites", {"model.layers.7.self_attn": {}}, "malformed"),
        ("format_version", 1.0, "malformed"),
        ("heads", "4", "malformed"),
        ("heads", 4.0, "malformed"),
        ("heads", 2, "contradicts"),
        ("head_dim", 16, "contradicts"),
        ("v_ranks", [1.5, 2], "malformed"),
        ("v_ranks", [1], "one rank per"),
        ("qk_ranks", [0, 3], "between 1 and the head dimension"),
        ("rope_pairs", None, "malformed"),
        ("rope_pairs", [[0, 1], 2], "malformed"),
        ("rope_pairs", [[0, 1.0], [2]], "malformed"),
        ("rope_pairs", [[0, True], [2]], "malformed"),
        ("rope_pairs", [[0, 1]], "one list per key/value head"),
        ("rope_pairs", [[1, 0], [2]], "(?s)cannot be the frequencies.*ascending"),
        ("rope_pairs", [[0, 0], [2]], "cannot be the frequencies"),
        ("rope_pairs", [[0, 4], [2]], "(?s)cannot be the frequencies.*from 0 to 3"),
        ("rope_pairs", [[-1, 0], [2]], "cannot be the frequencies"),
        ("rope_pairs", [[], [2]], "cannot be the frequencies"),
        ("rope_pairs", [[0, 1, 2, 3], [0, 1, 2, 3]], "contradict each other"),
    ],
)
def test_a_surgery_block_that_cannot_be_run_is_an_error(
    own_case: Make, field: str, value: Any, message: str
) -> None:
    made = own_case("llama")
    block = made.config()["surgery"]
    broken(field, value)(block)
    edit(made, surgery=block)

    with pytest.raises(CheckpointError, match=message):
        surgery.load(made.path)
    with pytest.raises(CheckpointError):  # nor is it operated on
        surgery.inspect(made.path, structure=True)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("model.layers.7.self_attn", "(?s)does not have.*layers.7"),
        ("model.layers.0.mlp", "(?s)cannot restructure.*LlamaMLP"),
    ],
)
def test_a_site_that_is_no_attention_module_is_an_error(
    own_case: Make, path: str, message: str
) -> None:
    made = own_case("llama")
    block = made.config()["surgery"]
    sites = block["operations"][0]["sites"]
    sites[path] = sites["model.layers.0.self_attn"]
    edit(made, surgery=block)

    with pytest.raises(CheckpointError, match=message):
        surgery.load(made.path)


def test_narrow_rotary_heads_must_say_which_frequencies_are_left(own_case: Make) -> None:
    made = own_case("llama")
    block = made.config()["surgery"]
    del block["operations"][0]["sites"]["model.layers.1.self_attn"]["rope_pairs"]
    edit(made, surgery=block)

    with pytest.raises(CheckpointError, match=r"(?s)whole frequency pairs.*layers\.1.*qk_ranks"):
        surgery.load(made.path)


@pytest.mark.parametrize("name", ["whisper", "bert-masked", "gpt2"])
def test_frequencies_mean_nothing_where_nothing_is_rotated(own_case: Make, name: str) -> None:
    made = own_case(name, "full")
    block = made.config()["surgery"]
    path, site = next(iter(block["operations"][0]["sites"].items()))
    site["rope_pairs"] = [list(range(rank // 2)) for rank in site["qk_ranks"]]
    edit(made, surgery=block)

    with pytest.raises(CheckpointError, match=rf"(?s)without rotary positions.*{path}"):
        surgery.load(made.path)


def test_the_last_operation_on_a_module_counts(own_case: Make) -> None:
    made = own_case("llama")
    block = made.config()["surgery"]
    first = json.loads(json.dumps(block["operations"][0]))
    for site in first["sites"].values():
        site["v_ranks"] = [8, 8]
    edit(made, surgery=block | {"operations": [first, *block["operations"]]})

    assert outputs(surgery.load(made.path), inputs(made.oracle)).isfinite().all()


def test_a_family_without_a_runtime_is_an_error(own_case: Make) -> None:
    made = own_case("llama")
    edit(made, model_type="cohere", architectures=["CohereForCausalLM"])

    with pytest.raises(CheckpointError, match=r"(?s)cannot run.*cohere.*whisper"):
        surgery.load(made.path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "no-such-model"}, "no model of this type"),
        ({"model_type": None}, "no model of this type"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "Quantised"),
        ({"vocab_size": "many"}, "does not describe|could not load"),
    ],
)
def test_a_config_that_describes_no_model_is_an_error(
    own_case: Make, changes: dict[str, Any], message: str
) -> None:
    made = own_case("llama")
    edit(made, **changes)

    with pytest.raises(CheckpointError, match=message):
        surgery.load(made.path)


def test_an_attention_that_is_not_installed_is_an_error(own_case: Make) -> None:
    made = own_case("llama")
    with pytest.raises(CheckpointError, match="could not load"):
        surgery.load(made.path, attn_implementation="no_such_attention")


def test_a_model_class_of_another_family_is_an_error(own_case: Make) -> None:
    made = own_case("llama")
    with pytest.raises(CheckpointError, match="does not fit"):
        surgery.load(made.path, model_class=transformers.BertModel)


def test_directories_that_hold_no_model_are_an_error(own_case: Make, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such model directory"):
        surgery.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        surgery.load(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        surgery.load(tmp_path / "empty")

    made = own_case("llama")
    file = made.path / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="could not load"):
        surgery.load(made.path)
    file.rename(made.path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no safetensors"):
        surgery.load(made.path)


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ("../other.safetensors", "not a file beside it"),
        ({"": None}, "not a file beside it"),
        ("b.safetensors", "shard is missing"),
    ],
)
def test_an_index_that_points_elsewhere_is_an_error(
    own_case: Make, shard: object, message: str
) -> None:
    made = own_case("llama")
    (made.path / "model.safetensors").rename(made.path / "a.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": shard}}
    (made.path / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(CheckpointError, match=message):
        surgery.load(made.path)


def test_the_package_imports_without_the_large_libraries() -> None:
    program = (
        "import sys, surgery\n"
        "assert not {'torch', 'transformers', 'numpy', 'scipy'} & {*sys.modules}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_runtime_imports_nothing_else_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def ours() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] == "surgery"]

    for name in ours():
        monkeypatch.delitem(sys.modules, name)  # back again afterwards
    try:
        for family in ("whisper", "rotary", "bert", "gpt2"):
            importlib.import_module(f"surgery.runtime.{family}")
        foreign = {name for name in ours() if not name.startswith("surgery.runtime")}
    finally:
        for name in ours():
            del sys.modules[name]
    assert foreign <= {"surgery", "surgery.version"}


def test_the_real_whisper_loads_in_float32(shared: Path) -> None:
    model = surgery.load(shared / "checkpoints" / "whisper-tiny.en-digits")

    assert isinstance(model, transformers.WhisperForConditionalGeneration)
    assert model.dtype == torch.float32
