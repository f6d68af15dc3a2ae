"""An output layer is the token embedding where the tensors say so, whatever config.json says."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import surgery
from surgery.errors import SurgeryError, UnsupportedModelError
from surgery.methods import Remove
from tests.engine.spoken import save_listener, save_spoken
from tests.engine.support import config_of, run, save_tiny, tensors_of
from tests.export.whispers import change, retensor
from tests.runtime.naive import relative_error

NAMES = {
    "whisper": ("model.decoder.embed_tokens.weight", "proj_out.weight"),
    "llama": ("model.embed_tokens.weight", "lm_head.weight"),
    "mistral": ("model.embed_tokens.weight", "lm_head.weight"),
    "qwen2": ("model.embed_tokens.weight", "lm_head.weight"),
    "gpt2": ("transformer.wte.weight", "lm_head.weight"),
}
PRUNED = surgery.Options(rule=Remove(0.25), by_weights=True)
pytestmark = [
    pytest.mark.usefixtures("no_pictures"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def saved(family: str, stored: str, directory: Path, *, tied: bool = True) -> Path:
    """Save a model whose configuration says "tied", and which stores what is asked for."""
    if family == "whisper":
        save_listener(directory)
    else:  # AutoTokenizer takes Qwen2's own class, whatever a tokenizer is
        (save_tiny if family == "qwen2" else save_spoken)(family, directory)
    embedding, output = NAMES[family]
    rows = load_file(directory / "model.safetensors")[embedding]
    own = 0.3 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(3))
    heads = {"two": own, "twice one": rows, "embedding": None, "output": rows}
    retensor(directory, **{output: heads[stored], embedding: None if stored == "output" else rows})
    change(directory, tie_word_embeddings=tied)
    return directory


def exported(source: Path, target: str, **options: Any) -> Any:
    return surgery.export_model(source, target, source.with_name(f"to-{target}"), **options)


STORED = ("two", "twice one", "embedding", "output")


@pytest.mark.parametrize(
    ("family", "stored"),
    [*product(NAMES, ("two", "output")), *product(("llama",), ("twice one", "embedding"))],
)
def test_transformers_computes_the_same_and_is_told_what_is_stored(
    family: str, stored: str, tmp_path: Path
) -> None:
    source = saved(family, stored, tmp_path / "source")
    surgery.absorb_decompose(source, tmp_path / "pruned", options=PRUNED)
    expected = set(NAMES[family]) & tensors_of(source).keys()
    assert set(NAMES[family]) & tensors_of(tmp_path / "pruned").keys() == expected
    made = exported(tmp_path / "pruned", "hf")
    assert made.comparison is not None and made.comparison.error < 1e-5
    assert set(NAMES[family]) & tensors_of(made.output).keys() == expected
    assert config_of(made.output)["tie_word_embeddings"] is (stored != "two")
    surgery.verify(source, tmp_path / "pruned", weights_only=family == "qwen2")


@pytest.mark.parametrize(
    ("family", "stored"),
    [*product(("llama",), STORED), *product(("mistral", "qwen2"), ("two", "output"))],
)
def test_llama_cpp_is_given_the_layer_that_is_stored(
    family: str, stored: str, tmp_path: Path
) -> None:
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    made = exported(saved(family, stored, tmp_path / "source"), "gguf")
    assert made.comparison is not None and made.comparison.error < 1e-5
    names = {tensor.name for tensor in gguf.GGUFReader(made.output / "model.gguf").tensors}
    assert "token_embd.weight" in names and ("output.weight" in names) is (stored == "two")


def test_narrower_values_are_written_beside_a_layer_of_its_own(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    source = saved("llama", "two", tmp_path / "source")
    options = surgery.Options(rule=Remove(0.5), pairs=("vo",), layout="model", by_weights=True)
    surgery.absorb_decompose(source, tmp_path / "cut", options=options)
    made = exported(tmp_path / "cut", "gguf")
    assert made.comparison is not None and made.comparison.error < 1e-5
    reader = gguf.GGUFReader(made.output / "model.gguf")
    assert reader.fields["general.architecture"].contents() == "mimo2"
    (output,) = (one for one in reader.tensors if one.name == "output.weight")
    assert (output.data == tensors_of(source)["lm_head.weight"].numpy()).all()


@pytest.mark.parametrize("stored", STORED)
def test_ctranslate2_is_given_the_layer_that_is_stored(stored: str, tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    made = exported(saved("whisper", stored, tmp_path / "source"), "ct2")
    assert made.comparison is not None and made.comparison.error < 1e-5
    assert "first scores" in made.comparison.what


@pytest.mark.parametrize("stored", STORED)
def test_what_ties_by_construction_is_given_one_layer_or_refuses(
    stored: str, tmp_path: Path
) -> None:
    pytest.importorskip("whisper")
    source = saved("whisper", stored, tmp_path / "source")
    if stored == "two":
        for target in ("openai-whisper", "ggml"):
            with pytest.raises(UnsupportedModelError, match="its output layer is not"):
                exported(source, target, verify=False)
        with pytest.raises(UnsupportedModelError, match="its output layer is not"):
            surgery.load_openai_whisper(source)
    else:
        made = exported(source, "openai-whisper")
        assert made.comparison is not None and made.comparison.error < 1e-5
        one = surgery.load_openai_whisper(source, device="cpu").decoder.token_embedding.weight
        assert torch.equal(one, surgery.load(source).get_output_embeddings().weight)


@pytest.mark.parametrize("stored", ["embedding", "output"])
@pytest.mark.parametrize(("family", "target"), [("llama", "gguf"), ("whisper", "ct2"),
                                                ("whisper", "openai-whisper")])  # fmt: skip
def test_a_layer_that_is_missing_is_not_made_up(
    family: str, target: str, stored: str, tmp_path: Path
) -> None:
    source = saved(family, stored, tmp_path / "source", tied=False)
    missing = NAMES[family][stored == "embedding"]
    with pytest.raises(SurgeryError, match=missing):
        exported(source, target, verify=False)
    with pytest.raises(SurgeryError, match=missing):
        surgery.load(source)
    assert sorted(tmp_path.iterdir()) == [source]


def test_an_adapter_belongs_on_a_model_with_a_layer_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    source = saved("llama", "two", tmp_path / "source")
    surgery.split(source, tmp_path / "split", rank=2)
    made = exported(tmp_path / "split", "peft", original=source)
    assert made.comparison is not None and made.comparison.error < 1e-5


def test_a_stock_class_says_what_is_stored_under_its_own_name(tmp_path: Path) -> None:
    import transformers

    source = saved("llama", "two", tmp_path / "source")
    options = surgery.Options(rule=Remove(0.5), pairs=("vo",), layout="model", by_weights=True)
    surgery.absorb_decompose(source, tmp_path / "cut", options=options)
    made = exported(tmp_path / "cut", "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(made.output)
    assert type(model).__name__ == "MiMoV2FlashForCausalLM"
    assert model.config.tie_word_embeddings is False
    assert relative_error(run(model), run(surgery.load(tmp_path / "cut"))) < 1e-5
