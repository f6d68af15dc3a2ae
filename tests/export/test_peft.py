"""Adapters cross over to PEFT and back with the same logits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import surgery
from surgery.checkpoint.resolve import resolve
from surgery.errors import (
    CheckpointError,
    ModelNotFoundError,
    TargetError,
    UnsupportedModelError,
    UsageError,
)
from surgery.stored.adapter import write_adapter
from tests.engine.support import run, save_tiny
from tests.engine.test_small_parts import ROUNDING, all_roles, perturb
from tests.models import model_class, tiny_model
from tests.runtime.naive import relative_error

peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.usefixtures("no_pictures"),
]

FAMILIES = ("whisper", "llama", "qwen2", "mistral", "gemma", "bert", "bert-unprefixed", "gpt2")


def stock(name: str, directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    return model_class(name).from_pretrained(directory, dtype=dtype).eval()


def with_peft(model: Any, adapter: Path) -> Any:
    return peft.PeftModel.from_pretrained(model, adapter).eval()


def tuned(source: Path, tmp_path: Path, dtype: str, **options: Any) -> Path:
    """Split or re-parameterise, move every small part, and save."""
    operate = surgery.split if options["method"] in ("sorsa", "pissa") else surgery.reparam
    operate(source, tmp_path / "out", **options)
    perturb(surgery.load(tmp_path / "out", dtype="auto")).save_pretrained(tmp_path / "tuned")
    return tmp_path / "tuned"


@pytest.mark.parametrize(
    ("name", "method", "dtype"),
    [
        (name, method, ("fp32", "bf16")[(i + j) % 2])
        for i, name in enumerate(FAMILIES)
        for j, method in enumerate(("sorsa", "pissa"))
    ],
)
def test_a_trained_split_is_a_lora_of_twice_the_rank_on_the_original(
    name: str, method: str, dtype: str, tmp_path: Path
) -> None:
    source = save_tiny(name, tmp_path / "source", dtype=dtype)
    checkpoint = tuned(source, tmp_path, dtype, method=method, rank=4, targets=all_roles(name))
    made = surgery.export_model(checkpoint, "peft", tmp_path / "adapter", original=source)

    adapted = with_peft(stock(name, source), tmp_path / "adapter")
    config = adapted.peft_config["default"]
    assert (config.r, config.lora_alpha, config.use_rslora) == (8, 8, False)
    expected = run(surgery.load(checkpoint, dtype=torch.float32))
    # Exact but for float32 where W_r is; otherwise what rounding W_r costs.
    allowed = 2e-5 if dtype == "fp32" else 8 * ROUNDING[dtype]
    assert relative_error(run(adapted), expected) <= allowed
    assert relative_error(run(stock(name, source)), expected) > 1e-2
    count = sum(p.numel() for n, p in adapted.named_parameters() if "lora_" in n)
    modules = len({n.partition(".lora_")[0] for n, _ in adapted.named_parameters() if "lora_" in n})
    what, worst, on = made.notes
    assert what == f"LORA adapter of {modules} modules, {count:,} parameters."
    assert float(worst.split()[-1][:-1]) <= (1e-6 if dtype == "fp32" else 2 * ROUNDING[dtype])
    assert on == f"It belongs on {source}." and made.comparison is not None


@pytest.mark.parametrize("init", ["pissa", True])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_lora_that_peft_trained_comes_back_with_its_logits(
    name: str, init: str | bool, tmp_path: Path
) -> None:
    source = save_tiny(name, tmp_path / "source")
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=modules_of(name), init_lora_weights=init
    )
    model = peft.get_peft_model(stock(name, source), config)
    move(model, "lora_")
    model.save_pretrained(tmp_path / "adapter")

    surgery.import_adapter(source, tmp_path / "adapter", tmp_path / "out")
    assert relative_error(run(surgery.load(tmp_path / "out")), run(model.eval())) <= 1e-5
    merged = surgery.merge(tmp_path / "out", tmp_path / "merged")
    assert relative_error(run(stock(name, merged)), run(model)) <= 1e-5


def test_a_pissa_of_a_random_svd_needs_the_adapter_it_began_with(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    config = peft.LoraConfig(
        r=4,
        target_modules=["q_proj", "down_proj"],
        init_lora_weights="pissa_niter_2",
        use_rslora=True,
        alpha_pattern={"down_proj": 3},
    )
    model = peft.get_peft_model(stock("llama", source), config)
    model.save_pretrained(tmp_path / "first")
    move(model, "lora_")
    model.save_pretrained(tmp_path / "adapter")

    with pytest.raises(UsageError, match="cannot be repeated"):
        surgery.import_adapter(source, tmp_path / "adapter", tmp_path / "out")
    surgery.import_adapter(
        source, tmp_path / "adapter", tmp_path / "out", initial_adapter=tmp_path / "first"
    )
    assert relative_error(run(surgery.load(tmp_path / "out")), run(model.eval())) <= 1e-5


def test_two_adapters_of_one_name_are_told_apart(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    model = peft.get_peft_model(
        stock("llama", source), peft.LoraConfig(r=2, target_modules=["q_proj"])
    )
    model.save_pretrained(tmp_path / "first" / "adapter")
    for folder in ("one", "two"):
        move(model, "lora_")
        model.save_pretrained(tmp_path / folder / "adapter")
    first = tmp_path / "first" / "adapter"
    surgery.import_adapter(
        source, tmp_path / "one" / "adapter", tmp_path / "out", initial_adapter=first
    )
    with pytest.raises(TargetError, match="not empty"):  # another adapter is not "already done"
        surgery.import_adapter(
            source, tmp_path / "two" / "adapter", tmp_path / "out", initial_adapter=first
        )


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "gpt2"])
def test_hra_crosses_over_in_both_directions(name: str, tmp_path: Path) -> None:
    source = save_tiny(name, tmp_path / "source")
    checkpoint = tuned(source, tmp_path, "fp32", method="hra", reflections=4)
    surgery.export_model(checkpoint, "peft", tmp_path / "adapter", original=source)
    adapted = with_peft(stock(name, source), tmp_path / "adapter")
    expected = run(surgery.load(checkpoint))
    assert relative_error(run(adapted), expected) <= 1e-5

    surgery.import_adapter(source, tmp_path / "adapter", tmp_path / "back")
    assert relative_error(run(surgery.load(tmp_path / "back")), expected) <= 1e-6


@pytest.mark.parametrize("gram_schmidt", [False, True])
def test_hra_that_peft_trained_comes_back_with_its_logits(
    gram_schmidt: bool, tmp_path: Path
) -> None:
    source = save_tiny("llama", tmp_path / "source")
    config = peft.HRAConfig(
        r=5, apply_GS=gram_schmidt, init_weights=False, target_modules=["q_proj", "o_proj"]
    )
    model = peft.get_peft_model(stock("llama", source), config)
    move(model, "hra_")
    model.save_pretrained(tmp_path / "adapter")
    surgery.import_adapter(source, tmp_path / "adapter", tmp_path / "out")
    assert relative_error(run(surgery.load(tmp_path / "out")), run(model.eval())) <= 1e-5


def test_a_lora_wider_than_its_maps_comes_back(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    checkpoint = tuned(source, tmp_path, "fp32", method="sorsa", rank=12, targets=["k", "v"])
    surgery.export_model(
        checkpoint, "peft", tmp_path / "adapter", original=source
    )  # rank 24 on 16 × 32
    surgery.import_adapter(source, tmp_path / "adapter", tmp_path / "back")
    expected = run(surgery.load(checkpoint))
    assert relative_error(run(surgery.load(tmp_path / "back")), expected) <= 1e-5


def test_peft_starts_hra_where_we_do(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    surgery.reparam(source, tmp_path / "out", method="hra", reflections=4)
    surgery.export_model(tmp_path / "out", "peft", tmp_path / "adapter", original=source)
    adapted = with_peft(stock("llama", source), tmp_path / "adapter")
    assert relative_error(run(adapted), run(stock("llama", source))) <= 1e-5


def test_what_peft_has_no_form_for_is_refused(tmp_path: Path) -> None:
    source = save_tiny("gpt2", tmp_path / "source")
    surgery.reparam(source, tmp_path / "goft", method="goft")
    with refused_for("no form for goft"):
        surgery.export_model(tmp_path / "goft", "peft", tmp_path / "adapter", original=source)
    surgery.reparam(source, tmp_path / "hra", method="hra")
    with refused_for("holds no transposed map"):
        surgery.export_model(tmp_path / "hra", "peft", tmp_path / "adapter", original=source)
    with refused_for("no small parts"):
        surgery.export_model(source, "peft", tmp_path / "adapter", original=source)
    assert not (tmp_path / "adapter").exists()


def test_what_tune_keeps_apart_is_exported_and_nothing_is_left_out(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    surgery.split(source, tmp_path / "base", rank=2, targets=["q", "down"])
    with resolve(str(tmp_path / "base")) as base:
        parts = {name: 1.5 * base.tensor(name) for name in base.infos if ".sorsa_s" in name}
        norm = {"model.norm.weight": 1.5 * base.tensor("model.norm.weight")}
        for place, trained in (("tuned", parts), ("more", parts | norm)):
            (tmp_path / place).mkdir()
            write_adapter(tmp_path / place, trained, base=base, method="sorsa")
    surgery.export_model(tmp_path / "tuned", "peft", tmp_path / "adapter", original=source)
    adapted = with_peft(stock("llama", source), tmp_path / "adapter")
    assert relative_error(run(adapted), run(surgery.load(tmp_path / "tuned"))) <= 1e-5
    with refused_for("model.norm.weight"):
        surgery.export_model(tmp_path / "more", "peft", tmp_path / "x", original=source)


def test_adapter_base_and_original_may_all_have_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_tiny("llama", tmp_path / "source")
    surgery.split(source, tmp_path / "base", rank=2, targets=["q"])
    (tmp_path / "tuned").mkdir()
    with resolve(str(tmp_path / "base")) as base:
        parts = {name: 1.5 * base.tensor(name) for name in base.infos if ".sorsa_s" in name}
        write_adapter(tmp_path / "tuned", parts, base=base, method="sorsa")
    (tmp_path / "models").mkdir()
    source.rename(tmp_path / "models" / "first")
    (tmp_path / "base").rename(tmp_path / "models" / "second")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source").mkdir()  # of the name that is remembered, and something else
    with pytest.raises(ModelNotFoundError, match="--original"):
        surgery.export_model("tuned", "peft", "adapter", base="models/second")
    made = surgery.export_model(
        "tuned", "peft", "adapter", base="models/second", original="models/first"
    )
    # What loads it from here, not its name alone.
    assert 'from_pretrained("models/first")' in made.usage
    config = json.loads(Path("adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "models/first"


def test_reflections_on_rounded_weights_are_told_what_rounding_cost(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    surgery.reparam(source, tmp_path / "out", method="hra", dtype="bfloat16")
    made = surgery.export_model(tmp_path / "out", "peft", tmp_path / "adapter", original=source)
    assert made.comparison is not None and (made.comparison.error or 0) > 1e-4
    assert 1e-4 < float(made.notes[1].split()[-1][:-1]) < 2.0**-8


def test_another_base_than_the_one_operated_on_is_refused(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    other = save_tiny("llama", tmp_path / "other", seed=1)
    surgery.split(source, tmp_path / "out", rank=2)
    with pytest.raises(CheckpointError, match="not the model that was operated on"):
        surgery.export_model(tmp_path / "out", "peft", tmp_path / "adapter", original=other)
    assert not (tmp_path / "adapter").exists()


def with_adapter(place: Path, change: dict[str, Any]) -> Path:
    """Save a LLaMA and, beside it, a LoRA adapter whose configuration is changed."""
    source = save_tiny("llama", place / "source")
    model = peft.get_peft_model(
        stock("llama", source), peft.LoraConfig(r=2, target_modules=["q_proj"])
    )
    model.save_pretrained(place / "adapter")
    file = place / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    return source


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "VERA"}, "cannot be imported"),
        ({"peft_type": ["LORA"]}, "cannot be imported"),
        ({"use_dora": True}, "settings that cannot be imported"),
        ({"modules_to_save": ["lm_head"]}, "settings that cannot be imported"),
        ({"bias": "all"}, "settings that cannot be imported"),
        ({"alpha_pattern": {"(a+)+": 3}}, "regular expression"),
        ({"init_lora_weights": "loftq"}, "quantised"),
        ({"init_lora_weights": "olora"}, "cannot be repeated"),
    ],
)
def test_adapters_that_cannot_be_computed_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = with_adapter(tmp_path, change)
    with pytest.raises((CheckpointError, UsageError), match=message):
        surgery.import_adapter(source, tmp_path / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"r": 3},
        {"r": -2},
        {"r": 2.0},
        {"r": None},
        {"rank_pattern": {"q_proj": 1}},
        {"rank_pattern": [2]},
        {"lora_alpha": "six"},
        {"lora_alpha": 1e300},
        {"lora_alpha": 10**400},
        {"alpha_pattern": {"q_proj": None}},
        {"target_modules": ["k_proj"]},
        {"target_modules": ["q_proj", "down_proj"]},
        {"target_modules": ["q_proj", 1]},
        {"target_modules": 0.5},
        {"exclude_modules": ["q_proj"]},
        {"layers_to_transform": 0},
        {"layers_to_transform": [0, 5]},
        {"layers_to_transform": [0, 1], "layers_pattern": "blocks"},
        {"layers_pattern": "layers"},
        {"bias": ""},
        {"loftq_config": 1},
        {"task_type": 0},
    ],
    ids=str,
)
def test_a_configuration_that_is_not_the_tensors_is_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    source = with_adapter(tmp_path, change)
    with pytest.raises(CheckpointError) as caught:
        surgery.import_adapter(source, tmp_path / "adapter", tmp_path / "out")
    assert next(iter(change)) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
        {"target_modules": ["proj", "model.layers.0.self_attn.v_proj"]},
        {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["layers.0.self_attn.k_proj"]},
        {"target_modules": r".*\.1\.mlp\.(up|down)_proj"},
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"1.self_attn.v_proj": 3}},
    ],
    ids=str,
)
def test_whatever_modules_peft_chose_come_back(options: dict[str, Any], tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    model = peft.get_peft_model(stock("llama", source), peft.LoraConfig(r=2, **options))
    move(model, "lora_")
    model.save_pretrained(tmp_path / "adapter")
    surgery.import_adapter(source, tmp_path / "adapter", tmp_path / "out")
    assert relative_error(run(surgery.load(tmp_path / "out")), run(model.eval())) <= 1e-5


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30, float("nan")])
def test_reflections_along_nothing_are_refused(value: float, tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    config = peft.HRAConfig(r=2, init_weights=False, target_modules=["down_proj"])
    model = peft.get_peft_model(stock("llama", source), config)
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "hra_" in name)[:, 1] = value
    model.save_pretrained(tmp_path / "adapter")
    # PEFT divides by the length: by zero, or by one that single precision cannot square.
    assert run(model.eval()).isnan().any() == (value != 1e30)
    with pytest.raises(CheckpointError, match=r"no direction|not finite|too large"):
        surgery.import_adapter(source, tmp_path / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nowhere", ("no such adapter", "slip in the path")),
        ("org/lora", ("no such adapter", "hf download org/lora")),
        ("source", ("a model, and no adapter", "surgery import MODEL --adapter ADAPTER")),
        ("source/config.json", ("this is a file", "give source")),
        ("ours", ("needs no import", "surgery merge ours")),
        ("runs", ("its subfolders do", "checkpoint-5")),
        ("notes", ("holds no adapter", "a.txt", "save_pretrained")),
        ("diffusers", ("belongs to no linear map", "another tool wrote it")),
        ("oft", ("cannot be imported", "merge the adapter into the model")),
    ],
)
def test_what_is_no_adapter_is_called_what_it_is(
    given: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny("llama", tmp_path / "source")
    files = {
        "ours/adapter.json": "{}",
        "runs/checkpoint-5/adapter_config.json": "{}",
        "notes/a.txt": "",
        "diffusers/adapter_config.json": '{"peft_type": "LORA"}',
        "oft/adapter_config.json": '{"peft_type": "OFT"}',
    }
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    save_file({"lora_unet_q.alpha": torch.ones(1)}, "diffusers/adapter_model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        surgery.import_adapter("source", given, "out")
    assert all(each in str(caught.value) for each in words), caught.value
    assert not Path("out").exists()


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    model = peft.get_peft_model(
        tiny_model("llama-wide-heads"), peft.LoraConfig(r=2, target_modules=["o_proj"])
    )
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UsageError, match="the adapter is made for 32 × 48"):
        surgery.import_adapter(source, tmp_path / "adapter", tmp_path / "out")
    with pytest.raises(CheckpointError, match="does not have"):
        other = save_tiny("bert", tmp_path / "bert")
        surgery.import_adapter(other, tmp_path / "adapter", tmp_path / "out")


@contextmanager
def refused_for(reason: str) -> Iterator[None]:
    with pytest.raises(UnsupportedModelError, match="PEFT cannot hold") as caught:
        yield
    assert reason in str(caught.value.found) and caught.value.hint


def modules_of(name: str) -> list[str]:
    """Paths of linear maps inside the layers of a tiny model."""
    from transformers.pytorch_utils import Conv1D

    return [
        path
        for path, module in tiny_model(name).named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
        and any(word.isdigit() for word in path.split("."))
    ]


@torch.no_grad()
def move(model: Any, prefix: str) -> None:
    """Train, as far as a test is concerned."""
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if prefix in name:
            parameter.add_(0.1 * torch.randn_like(parameter))
