"""An output layer beside tied embeddings: what a file holds of the two is kept and runs alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import surgery
from surgery import Lossless, Options, TuneOptions
from surgery.errors import CheckpointError
from tests.architectures.test_classes import TIED
from tests.engine.spoken import TEXT, give_words
from tests.engine.support import config_of, run
from tests.models import tiny_of
from tests.runtime.naive import relative_error

pytestmark = pytest.mark.usefixtures("no_pictures")

HELD = ("embedding", "output layer", "both, equal", "both, different")


def save(name: str, directory: Path, held: str, *, tie: bool | None) -> Path:
    """Save a tiny model whose file holds one of embedding and output layer, or both."""
    tiny_of(name, tie_word_embeddings=True).save_pretrained(directory)
    tensors = load_file(directory / "model.safetensors")
    embedding, output = TIED[name]
    table = tensors.pop(embedding)
    other = torch.randn(table.shape, generator=torch.Generator().manual_seed(3))
    tensors |= {
        "embedding": {embedding: table},
        "output layer": {output: table},
        "both, equal": {embedding: table, output: table.clone()},
        "both, different": {embedding: table, output: other},
    }[held]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    raw = config_of(directory)
    del raw["tie_word_embeddings"]
    raw |= {} if tie is None else {"tie_word_embeddings": tie}
    (directory / "config.json").write_text(json.dumps(raw))
    return directory


def stock(name: str, directory: Path) -> Any:
    """As transformers alone loads it, and what it had to make up."""
    import transformers

    model, info = getattr(transformers, name).from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    return model.eval()


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("name", sorted(TIED))
def test_nothing_of_the_two_is_lost(name: str, held: str, tmp_path: Path) -> None:
    source = save(name, tmp_path / "source", held, tie=True)
    expected = run(stock(name, source))

    surgery.absorb_decompose(source, tmp_path / "out", options=Options(rule=Lossless()))
    surgery.split(source, tmp_path / "split", method="pissa", rank=2)
    surgery.merge(tmp_path / "split", tmp_path / "merged")

    names = load_file(source / "model.safetensors").keys()
    for made in ("out", "merged"):
        assert load_file(tmp_path / made / "model.safetensors").keys() == names
    assert relative_error(run(stock(name, tmp_path / "merged")), expected) <= 1e-4
    for made in ("source", "out", "split"):
        assert relative_error(run(surgery.load(tmp_path / made)), expected) <= 1e-4, made
    found = surgery.verify(source, tmp_path / "split", weights_only=True)
    assert found.changed == [] and found.worst < 1e-4


@pytest.mark.parametrize("tie", [False, None])
def test_an_output_layer_beside_an_untied_configuration_is_its_own(
    tie: bool | None, tmp_path: Path
) -> None:
    source = save("LlamaForCausalLM", tmp_path / "source", "both, different", tie=tie)
    surgery.split(source, tmp_path / "out", method="pissa", rank=2)
    expected = run(stock("LlamaForCausalLM", source))
    assert relative_error(run(surgery.load(tmp_path / "out")), expected) <= 1e-5


@pytest.mark.parametrize(
    ("held", "hint"),
    [("embedding", '"tie_word_embeddings": true.*LlamaModel'), ("output layer", "tie_word")],
)
def test_half_of_an_untied_pair_is_refused_and_not_made_up(
    held: str, hint: str, tmp_path: Path
) -> None:
    source = save("LlamaForCausalLM", tmp_path / "source", held, tie=None)
    with pytest.raises(CheckpointError, match=f"(?s)is missing.*random numbers.*{hint}"):
        surgery.split(source, tmp_path / "out", method="pissa", rank=2)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_training_everything_changes_both_names_of_what_is_tied(
    name: str, held: str, tmp_path: Path
) -> None:
    source = give_words(save(name, tmp_path / "source", held, tie=True))
    (tmp_path / "text.txt").write_text(TEXT)
    options = TuneOptions(steps=2, held_out=0.0, learning_rate=0.01)
    surgery.tune(
        source, tmp_path / "tuned", data=tmp_path / "text.txt", train="full", options=options
    )

    learnt = run(surgery.load(tmp_path / "tuned"))
    assert relative_error(learnt, run(surgery.load(source))) > 1e-3
    surgery.merge(tmp_path / "tuned", tmp_path / "merged")
    assert relative_error(run(stock(name, tmp_path / "merged")), learnt) <= 1e-6
    stored, merged = (
        load_file(path / "model.safetensors") for path in (source, tmp_path / "merged")
    )
    both = [merged[each] for each in TIED[name] if each in merged]
    assert stored.keys() == merged.keys()
    if held == "both, equal":
        assert torch.equal(*both)
