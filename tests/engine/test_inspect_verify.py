"""Inspect foretells what a run does; verify tells what it did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import surgery
from surgery.checkpoint.directory import DirectorySource
from surgery.errors import CheckpointError
from tests.engine.support import config_of, contents, save_tiny, tensors_of
from tests.models import tiny_model

CHOICES: dict[str, tuple[str, surgery.Options]] = {
    "whisper-preset": ("whisper", surgery.Options(by_weights=True)),
    "whisper-all-tied": (
        "whisper",
        surgery.Options(rule=surgery.Remove(0.3), scope="all", layout="tied", by_weights=True),
    ),
    "llama-preset": ("llama", surgery.Options(by_weights=True)),
    "qwen2-block": (
        "qwen2",
        surgery.Options(rule=surgery.Remove(0.2), layout="block", by_weights=True),
    ),
    "gpt2-energy": ("gpt2", surgery.Options(rule=surgery.Energy(0.8), multiple=4, by_weights=True)),
    "bert-lossless": ("bert", surgery.Options(rule=surgery.Lossless())),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_inspect_foretells_the_savings_of_the_run(tmp_path: Path, choice: str) -> None:
    name, options = CHOICES[choice]
    source = save_tiny(name, tmp_path / "source")
    told = surgery.inspect(source, options=options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
    done = surgery.absorb_decompose(source, tmp_path / "out", options=options)
    assert told.output is None
    assert told.savings == done.savings
    assert told.quantities == done.quantities
    for before, after in zip(told.sites, done.sites, strict=True):
        for one, other in ((before.qk, after.qk), (before.vo, after.vo)):
            assert (one.ranks, one.spectrum, one.untouched) == (
                other.ranks,
                other.spectrum,
                other.untouched,
            )


@pytest.mark.parametrize("name", ["whisper", "llama", "gpt2", "bert"])
def test_structure_reads_headers_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = save_tiny(name, tmp_path / "source", sharded=True)
    opened: list[bool] = []

    class Headers(DirectorySource):
        """A model on a hub of which only headers were fetched."""

        remote = True

        def tensor(self, name: str) -> torch.Tensor:
            raise AssertionError(f"{name} was read")

        def raw(self, name: str) -> memoryview:
            raise AssertionError(f"{name} was read")

        def start_hashing(self, threads: int = 2) -> None:
            raise AssertionError("the weights were hashed")

    def resolve(model: str, **options: Any) -> DirectorySource:
        opened.append(options["headers_only"])
        return Headers(source, name=model)

    monkeypatch.setattr("surgery.engine.compress.inspect.resolve", resolve)
    report = surgery.inspect("owner/name", structure=True)
    assert opened == [True]
    assert report.source.name == "owner/name"
    assert all(saving.removed == 0 for saving in report.savings)
    assert all(site.qk.spectrum == [] == site.vo.spectrum for site in report.sites)
    model = next(saving for saving in report.savings if saving.name == "model")
    assert model.before == sum(tensor.numel() for tensor in tensors_of(source).values())
    assert "Structure only" in report.notes[0]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    source = save_tiny("whisper", tmp_path / "source")
    options = surgery.Options(rule=surgery.Lossless(), dtype="float32")
    surgery.absorb_decompose(source, tmp_path / "out", options=options)
    return source, tmp_path / "out"


def change(directory: Path, name: str, index: int = 0, by: float = 1.0) -> None:
    file = directory / "model.safetensors"
    tensors = tensors_of(directory)
    tensors[name].view(-1)[index] += by
    save_file(tensors, file, metadata={"format": "pt"})


def test_a_model_is_itself(pair: tuple[Path, Path], tmp_path: Path) -> None:
    source, _ = pair
    shutil.copytree(source, tmp_path / "copy")
    found = surgery.verify(source, tmp_path / "copy", weights_only=True)
    assert found.worst <= 1e-15
    assert found.changed == []
    assert all(site.output_bias == 0 for site in found.sites)
    assert len(found.sites) == 6
    assert found.measurements == []


def test_restructured_and_merged_are_the_original_to_rounding(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    source, out = pair
    merged = surgery.merge(out, tmp_path / "merged")
    for result in (out, merged):
        found = surgery.verify(source, result, weights_only=True)
        assert 1e-12 < found.worst <= 2 * torch.finfo(torch.float32).eps
        assert found.changed == []
        assert all(site.output_bias < 1e-6 for site in found.sites)
    assert surgery.verify(out, merged, weights_only=True).worst <= 1e-15


def test_what_was_cut_shows_as_the_report_foretold(tmp_path: Path) -> None:
    source = save_tiny("llama-biased", tmp_path / "source")
    report = surgery.absorb_decompose(
        source,
        tmp_path / "out",
        options=surgery.Options(rule=surgery.Remove(0.25), by_weights=True),
    )
    found = surgery.verify(source, tmp_path / "out", weights_only=True)
    for measured, told in zip(found.sites, report.sites, strict=True):
        assert measured.vo == pytest.approx(told.vo.cut_error, rel=1e-4)
        assert max(measured.qk) == 0


def test_a_changed_head_and_a_changed_neighbour_are_found(pair: tuple[Path, Path]) -> None:
    source, out = pair
    change(out, "model.decoder.layers.1.encoder_attn.k_proj.weight")
    change(out, "model.encoder.layers.0.fc1.weight", by=1e-3)
    change(out, "model.encoder.layers.0.fc1.bias", by=1e-3)
    found = surgery.verify(source, out, weights_only=True)
    assert found.changed == ["model.encoder.layers.0.fc1.bias"]
    assert found.linears.keys() == {"model.encoder.layers.0.fc1"}
    assert found.linears["model.encoder.layers.0.fc1"] > 1e-5
    wrong = [site.path for site in found.sites if max([*site.qk, *site.vo]) > 1e-5]
    assert wrong == ["model.decoder.layers.1.encoder_attn"]


def test_a_changed_bias_is_found(pair: tuple[Path, Path]) -> None:
    source, out = pair
    change(out, "model.encoder.layers.0.self_attn.out_proj.bias")
    found = surgery.verify(source, out, weights_only=True)
    assert found.sites[0].output_bias > 1e-2


def test_across_rope_an_equal_product_is_not_enough(tmp_path: Path) -> None:
    # Swapping two rows of q and k keeps their product, but RoPE turns each by its own angle.
    source = save_tiny("llama", tmp_path / "source")
    shutil.copytree(source, tmp_path / "swapped")
    tensors = tensors_of(source)
    for name in ("q_proj", "k_proj"):
        weight = tensors[f"model.layers.0.self_attn.{name}.weight"]
        for head in range(len(weight) // 8):
            weight[[8 * head, 8 * head + 1]] = weight[[8 * head + 1, 8 * head]]
    save_file(tensors, tmp_path / "swapped" / "model.safetensors", metadata={"format": "pt"})
    found = surgery.verify(source, tmp_path / "swapped", weights_only=True)
    assert min(found.sites[0].qk) > 0.1
    assert max([*found.sites[0].vo, *found.sites[1].qk]) <= 1e-15


def other_width(directory: Path) -> None:
    """A LLaMA with the same tensor names and another MLP width."""
    model = tiny_model("llama")
    config = model.config
    config.intermediate_size = 44
    type(model)(config).save_pretrained(directory)


def other_heads(directory: Path) -> None:
    save_tiny("llama", directory)
    config = config_of(directory) | {"num_attention_heads": 2, "head_dim": 16}
    (directory / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 1}))


@pytest.mark.parametrize("other", [other_width, other_heads, "mistral", "gpt2", "llama-biased"])
def test_two_different_models_are_not_compared(tmp_path: Path, other: Any) -> None:
    source = save_tiny("llama", tmp_path / "source")
    if isinstance(other, str):
        save_tiny(other, tmp_path / "other")
    else:
        other(tmp_path / "other")
    with pytest.raises(CheckpointError, match="not two forms of one model") as caught:
        surgery.verify(source, tmp_path / "other", weights_only=True)
    assert caught.value.found
    assert caught.value.expected


def test_weights_that_contradict_the_surgery_block_are_refused(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    source, out = pair
    config = config_of(out)
    sites = config["surgery"]["operations"][0]["sites"]
    sites["model.encoder.layers.0.self_attn"]["qk_ranks"][0] -= 1
    (out / "config.json").write_text(json.dumps(config))
    was = contents(out)
    with pytest.raises(CheckpointError, match="contradicts the surgery block"):
        surgery.verify(source, out, weights_only=True)
    with pytest.raises(CheckpointError, match="contradicts the surgery block"):
        surgery.merge(out, tmp_path / "merged")
    assert contents(out) == was
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("key", ["options", "provenance"])
@pytest.mark.parametrize("value", [[{}], "text", 1])
def test_what_is_only_shown_of_an_operation_has_its_form_too(
    pair: tuple[Path, Path], tmp_path: Path, key: str, value: Any
) -> None:
    _, out = pair
    config = config_of(out)
    config["surgery"]["operations"][0][key] = value
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"(?s)malformed.*{key}"):
        surgery.merge(out, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()

    config["surgery"]["operations"][0][key] = None
    (out / "config.json").write_text(json.dumps(config))
    surgery.merge(out, tmp_path / "merged")
