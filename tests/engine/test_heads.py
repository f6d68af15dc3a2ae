"""Every class of a family, its head or the lack of one, from the file to what is made of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import surgery
from surgery import Calibrate, Lossless, MaxPplIncrease, MaxWerIncrease, Options, Remove
from surgery.errors import CheckpointError, SurgeryError, UsageError
from tests.engine.spoken import EARS, OTHER_TEXT, TEXT, give_words, save_clips, save_listener
from tests.engine.support import config_of, inputs
from tests.models import tiny_of

pytestmark = pytest.mark.usefixtures("no_pictures")

WITHOUT_WORDS = (
    "LlamaModel",
    "LlamaForSequenceClassification",
    "LlamaForTokenClassification",
    "LlamaForQuestionAnswering",
    "MistralForQuestionAnswering",
    "Qwen2ForQuestionAnswering",
    "GPT2Model",
    "GPT2ForTokenClassification",
    "BertForSequenceClassification",
)


def save(name: str, directory: Path, **changes: Any) -> Path:
    """Save a tiny model of one class, with a tokenizer where it reads."""
    model = tiny_of(name, **changes)
    model.save_pretrained(directory)
    return directory if name.startswith("Whisper") else give_words(directory)


def edit(directory: Path, **values: Any) -> None:
    """Change config.json; ``None`` takes a key out."""
    raw = config_of(directory) | values
    kept = {key: value for key, value in raw.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(kept))


def first(model: Any) -> Tensor:
    """The first output on random input, whatever the class."""
    with torch.no_grad():
        given = inputs(model)
        if type(model).__name__ == "WhisperForAudioClassification":
            del given["decoder_input_ids"]
        found: Tensor = model(**given)[0]
    return found


def same(one: Any, other: Any) -> bool:
    return bool(torch.allclose(first(one), first(other), atol=1e-5))


@pytest.mark.parametrize("name", WITHOUT_WORDS)
def test_what_predicts_no_words_is_compared_by_its_hidden_states(name: str, tmp_path: Path) -> None:
    source = save(name, tmp_path / "source")
    text, other = tmp_path / "text.txt", tmp_path / "other.txt"
    text.write_text(TEXT), other.write_text(OTHER_TEXT)

    report = surgery.absorb_decompose(
        source, tmp_path / "out", options=Options(rule=Lossless()), data=text
    )
    assert [row.metric for row in report.measurements] == ["output_error"]
    (row,) = surgery.verify(source, tmp_path / "out").measurements
    assert row.metric == "output_error" and row.after < 1e-4
    found = surgery.evaluate([source, tmp_path / "out"], other)
    assert found.kind == "embedding" and "embedding_error" in found.rows[1].figures
    assert same(surgery.load(tmp_path / "out"), surgery.load(source))


def test_a_bound_on_a_perplexity_wants_words(tmp_path: Path) -> None:
    source = save("LlamaModel", tmp_path / "source")
    (tmp_path / "text.txt").write_text(TEXT)
    options = Options(
        rule=MaxPplIncrease(0.1), calibrate=Calibrate(data=str(tmp_path / "text.txt"))
    )
    with pytest.raises(UsageError, match="needs a model that predicts text"):
        surgery.absorb_decompose(source, tmp_path / "out", options=options)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["source", "text.txt"]


@pytest.fixture
def listener(tmp_path: Path) -> Any:
    """Save a tiny Whisper of any class with the ears of whisper-micro."""

    def made(name: str) -> Path:
        save_listener(tmp_path / "whole")
        raw = config_of(tmp_path / "whole")
        model = tiny_of(name, **{k: v for k, v in raw.items() if k != "architectures"})
        model.save_pretrained(tmp_path / name)
        for file in EARS[:1]:  # what only hears has no tokenizer
            shutil.copy(tmp_path / "whole" / file, tmp_path / name)
        return tmp_path / name

    return made


@pytest.mark.parametrize("name", ["WhisperModel", "WhisperForAudioClassification"])
def test_a_whisper_that_writes_nothing_is_compared_by_what_its_encoder_says(
    name: str, listener: Any, tmp_path: Path
) -> None:
    source, clips = listener(name), save_clips(tmp_path / "clips", range(2))
    options = Options(rule=Remove(0.3), calibrate=Calibrate(data=str(clips), trials=False))
    surgery.absorb_decompose(source, tmp_path / "out", options=options)

    found = surgery.verify(source, tmp_path / "out")
    assert {row.metric for row in found.measurements} == {"encoder_error", "encoder_error_window"}
    assert all(row.after > 0.01 for row in found.measurements)
    assert found.notes == [f"Of outputs only the encoder's was measured: {name} writes no text."]
    with pytest.raises(CheckpointError, match=r"(?s)transcribes nothing.*verify"):
        surgery.evaluate(source, clips)
    bound = Options(rule=MaxWerIncrease(0.1), calibrate=Calibrate(data=str(clips)))
    with pytest.raises(UsageError, match="hears and writes"):
        surgery.absorb_decompose(source, tmp_path / "bound", options=bound)


def test_a_decoder_alone_hears_nothing_and_is_told_so(listener: Any, tmp_path: Path) -> None:
    source, clips = listener("WhisperForCausalLM"), save_clips(tmp_path / "clips", range(1))
    options = Options(rule=Lossless(), scope="all")
    surgery.absorb_decompose(source, tmp_path / "out", options=options)

    found = surgery.verify(source, tmp_path / "out")
    assert found.worst < 1e-5 and found.measurements == []
    assert "has no encoder" in found.notes[0]
    with pytest.raises(UsageError, match=r"(?s)hears nothing.*--data"):
        surgery.verify(source, tmp_path / "out", data=clips)
    heard = Options(rule=Remove(0.2), scope="all", calibrate=Calibrate(data=str(clips)))
    with pytest.raises(UsageError, match=r"(?s)hears nothing.*--calibrate.*--by-weights"):
        surgery.absorb_decompose(source, tmp_path / "cut", options=heard)
    assert not (tmp_path / "cut").exists()


@pytest.mark.parametrize(
    "name",
    [
        "LlamaForCausalLM",
        "Qwen2ForSequenceClassification",
        "MistralForTokenClassification",
        "LlamaForQuestionAnswering",
        "BertForMaskedLM",
        "BertModel",
        "GPT2LMHeadModel",
        "WhisperForConditionalGeneration",
        "WhisperForAudioClassification",
    ],
)
def test_what_is_made_of_a_file_without_architectures_loads_as_its_class(
    name: str, tmp_path: Path
) -> None:
    source = save(name, tmp_path / "source")
    stock = surgery.load(source)
    edit(source, architectures=None)

    surgery.split(source, tmp_path / "split", method="pissa", rank=2)
    surgery.absorb_decompose(
        source, tmp_path / "out", options=Options(rule=Lossless(), scope="all")
    )
    surgery.merge(tmp_path / "split", tmp_path / "merged")

    for made in ("source", "split", "out", "merged"):
        loaded = surgery.load(tmp_path / made)
        assert type(loaded).__name__ == name and same(loaded, stock), made
        if made != "source":
            raw = config_of(tmp_path / made)
            assert raw["architectures"] == [name]
            owned = {one.rpartition(".")[2] for one in raw.get("auto_map", {}).values()}
            assert made == "merged" or name in owned
    assert surgery.verify(source, tmp_path / "out", weights_only=True).worst < 1e-4


def test_a_class_that_nobody_knows_gives_way_to_the_one_that_is_stored(tmp_path: Path) -> None:
    source = save("LlamaForCausalLM", tmp_path / "source")
    edit(source, architectures=["SomebodysLlama"])
    surgery.split(source, tmp_path / "out", method="pissa", rank=2)
    assert config_of(tmp_path / "out")["architectures"] == ["LlamaForCausalLM"]
    assert type(surgery.load(source)).__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize("command", ["split", "absorb_decompose", "load"])
def test_tensors_of_no_class_are_refused_before_anything_is_written(
    command: str, tmp_path: Path
) -> None:
    source = save("LlamaForCausalLM", tmp_path / "source")
    edit(source, architectures=None)
    tensors = load_file(source / "model.safetensors")
    tensors["qa_outputs.bias"] = torch.zeros(2)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    given: dict[str, Any] = {
        "split": {"out": tmp_path / "out", "rank": 2},
        "absorb_decompose": {"out": tmp_path / "out", "options": Options(rule=Lossless())},
        "load": {},
    }
    with pytest.raises(SurgeryError, match="those of none"):
        getattr(surgery, command)(source, **given[command])
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def buffers(name: str) -> dict[str, Tensor]:
    """What files of older releases hold beside the weights."""
    if name.startswith("GPT2"):
        prefix = "" if name == "GPT2Model" else "transformer."
        mask = torch.tril(torch.ones(64, 64, dtype=torch.uint8))[None, None].contiguous()
        return {
            f"{prefix}h.{layer}.attn.{own}": tensor
            for layer in (0, 1)
            for own, tensor in (("bias", mask.clone()), ("masked_bias", torch.tensor(-1e4)))
        }
    if name.startswith("Bert"):
        prefix = "" if name == "BertModel" else "bert."
        return {f"{prefix}embeddings.position_ids": torch.arange(64)[None]}
    prefix = {"LlamaModel": "", "LlamaForQuestionAnswering": "transformer."}.get(name, "model.")
    paths = [f"layers.{layer}.self_attn." for layer in (0, 1)] if prefix else [""]
    return {f"{prefix}{path}rotary_emb.inv_freq": torch.ones(4) for path in paths}


@pytest.mark.parametrize(
    "name",
    [
        "GPT2LMHeadModel",
        "GPT2Model",
        "BertForMaskedLM",
        "BertModel",
        "LlamaForCausalLM",
        "LlamaModel",
        "LlamaForQuestionAnswering",
    ],
)
def test_buffers_of_older_releases_come_along_and_are_in_nobodys_way(
    name: str, tmp_path: Path
) -> None:
    source = save(name, tmp_path / "source")
    stock = surgery.load(source)
    tensors = load_file(source / "model.safetensors") | buffers(name)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})

    surgery.absorb_decompose(source, tmp_path / "out", options=Options(rule=Lossless()))
    surgery.split(tmp_path / "out", tmp_path / "split", method="pissa", rank=2)
    surgery.merge(tmp_path / "split", tmp_path / "merged")
    surgery.export_model(tmp_path / "split", "hf", tmp_path / "hf")

    for made in ("source", "out", "split", "merged", "hf"):
        assert same(surgery.load(tmp_path / made), stock), made
    assert surgery.verify(source, tmp_path / "split").measurements[-1].metric is not None
