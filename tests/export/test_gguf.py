"""llama.cpp computes what our runtime does, smaller where one head shape does for the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import surgery
from surgery.errors import UnsupportedModelError
from surgery.export.gguf.form import GgufForm
from surgery.export.gguf.words import read_words
from surgery.export.hf.forms import Native
from surgery.export.run import Exported
from surgery.methods import Remove
from tests.engine.support import config_of, save_tiny
from tests.export.test_hf import pruned

gguf = pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.usefixtures("no_pictures")

EXACT = 1e-5  # of log-probabilities, everything in float32


def to_gguf(checkpoint: Path, quantization: str | None = None) -> Exported:
    return surgery.export_model(
        checkpoint, "gguf", checkpoint.with_name("gguf"), quantization=quantization, force=True
    )


def error(made: Exported) -> float:
    assert made.comparison is not None and made.comparison.error is not None
    return made.comparison.error


def fields(made: Exported) -> dict[str, Any]:
    reader = gguf.GGUFReader(made.output / "model.gguf")
    return {name: field.contents() for name, field in reader.fields.items()}


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("llama", "llama"),
        ("llama-biased", "llama"),
        ("llama-wide-heads", "llama"),
        ("qwen2", "qwen2"),
    ],
)
def test_a_dense_model_computes_the_same(name: str, arch: str, tmp_path: Path) -> None:
    made = to_gguf(save_tiny(name, tmp_path / "source"))
    assert error(made) <= EXACT and made.kept is None
    assert f"architecture {arch}, f32" in made.form
    assert (
        "no quantised KV cache" in made.notes[0] and "wide are no multiple of 32" in made.notes[0]
    )
    assert "tokens stand there as [0]" in made.notes[-1]  # the tiny models have no tokenizer


@pytest.mark.parametrize(
    ("name", "pairs", "values", "written", "share"),
    [
        # One width for all: a table of frequencies, scores scaled as by the old width.
        ("llama", [[0, 2]], [4], ("llama", 4, 4), 1.0),
        ("llama-biased", [[1, 2, 3]], [6], ("llama", 6, 6), 1.0),
        ("qwen2", [[0, 3]], [4], ("llama", 4, 4), 1.0),
        # Values narrower than keys.
        ("llama", None, [5], ("mimo2", 8, 5), 1.0),
        # No values at all, or one, of which llama.cpp must have two.
        ("llama", None, [0], ("mimo2", 8, 2), 6 / 8),
        ("llama", None, [1], ("mimo2", 8, 2), 6 / 7),
        ("llama-biased", None, [0], ("llama", 8, 8), 0.0),
        # Ragged heads: filled up with zeros to the widest.
        ("llama", [[0, 2], [1, 2]], [4, 3], ("llama", 6, 6), None),
        # Nothing smaller: Qwen2's biases keep its values as wide as its keys.
        ("qwen2", None, [5], ("qwen2", 8, 8), 0.0),
    ],
)
def test_a_pruned_model_is_as_small_as_one_head_shape_allows(
    name: str,
    pairs: Sequence[Sequence[int]] | None,
    values: list[int],
    written: tuple[str, int, int],
    share: float | None,
    tmp_path: Path,
) -> None:
    made = to_gguf(pruned(name, tmp_path, pairs, values))
    assert error(made) <= EXACT
    found = fields(made)
    arch = found["general.architecture"]
    widths = (found[f"{arch}.attention.key_length"], found[f"{arch}.attention.value_length"])
    assert (arch, *widths) == written
    assert found.get(f"{arch}.rope.dimension_count") == written[1]
    if share is None:
        assert 0 < made.kept < 1 and "zeros that fill up" in made.notes[0]
    else:
        assert made.kept == pytest.approx(share)


@pytest.mark.parametrize(
    ("kind", "settings", "pairs"),
    [
        ("linear", {"factor": 3.0}, None),
        (
            "llama3",
            {
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
            [[0, 2]],
        ),
        ("yarn", {"factor": 2.0, "original_max_position_embeddings": 32}, [[1, 3]]),
    ],
)
def test_every_table_of_frequencies_goes_along(
    kind: str, settings: dict[str, Any], pairs: list[list[int]] | None, tmp_path: Path
) -> None:
    checkpoint = pruned("llama", tmp_path, pairs, [4])
    config = config_of(checkpoint)
    config["rope_parameters"] = {"rope_type": kind, "rope_theta": 500.0, **settings}
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert error(to_gguf(checkpoint)) <= EXACT


def test_mistral_is_told_texts_no_longer_than_its_window(tmp_path: Path) -> None:
    source = save_tiny("mistral", tmp_path / "source")
    config = {**config_of(source), "sliding_window": 40}
    (source / "config.json").write_text(json.dumps(config))
    made = to_gguf(source)
    assert error(made) <= EXACT and fields(made)["llama.context_length"] == 40
    assert "not to a window of 40" in made.notes[-1]


@pytest.mark.parametrize(
    ("full", "widths", "told"),
    [
        (64, (44, 44), "44 is no multiple of 32"),
        (128, (96, 40), "40 is no multiple of 32"),
        (64, (32, 32), None),
        (64, (64, 32), None),
        (8, (6, 6), None),  # the original's cannot be quantised either
    ],
)
def test_widths_that_rule_out_a_quantised_cache_are_told(
    full: int, widths: tuple[int, int], told: str | None
) -> None:
    form = GgufForm("llama", Native(False, *widths, None, full), smaller=True)
    assert (form.cache is None) == (told is None)
    assert told is None or told in str(form.cache)


def test_what_llama_cpp_cannot_run_is_refused_with_what_can(tmp_path: Path) -> None:
    for name, remedy in (("bert", "loads in transformers as it is"), ("whisper", "--to ct2")):
        with pytest.raises(UnsupportedModelError, match="not of the LLaMA kind") as caught:
            to_gguf(save_tiny(name, tmp_path / name))
        assert remedy in str(caught.value.hint)
    surgery.split(save_tiny("gpt2", tmp_path / "gpt2"), tmp_path / "split", rank=2)
    with pytest.raises(UnsupportedModelError, match="not of the LLaMA kind") as caught:
        to_gguf(tmp_path / "split")
    assert caught.value.hint == "--to hf"
    dynamic = save_tiny("llama", tmp_path / "dynamic")
    config = config_of(dynamic)
    config["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}
    (dynamic / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="no single table"):
        to_gguf(dynamic)


def test_byte_level_merges_are_known_by_how_they_split_words(tmp_path: Path) -> None:
    tokenizer: dict[str, Any] = {
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
        "added_tokens": [{"id": 3, "content": "<end>", "special": True}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer))
    words = read_words(path, 5)
    assert (words.model, words.split, words.merges) == ("gpt2", "gpt-2", ["a b"])
    assert words.tokens == ["a", "b", "ab", "<end>", "[PAD4]"] and words.kinds == [1, 1, 1, 3, 5]
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    path.write_text(json.dumps(tokenizer))
    assert read_words(path, 5).stand_in


@pytest.mark.parametrize("quantization", [None, "f16", "bf16", "q8_0"])
def test_the_real_llama_reads_and_continues_a_text_as_ours(
    quantization: str | None, shared: Path, tmp_path: Path
) -> None:
    options = surgery.Options(rule=Remove(0.25), pairs=("vo",), by_weights=True)
    checkpoint = tmp_path / "pruned"
    surgery.absorb_decompose(shared / "checkpoints" / "stories260K", checkpoint, options=options)
    made = to_gguf(checkpoint, quantization)
    assert made.comparison is not None and "how a text is read" in made.comparison.what
    assert error(made) <= {None: EXACT, "f16": 2e-3, "bf16": 2e-2, "q8_0": 5e-2}[quantization]
    # Its embedding is its output layer, which narrower values would have stored twice.
    assert made.kept == 0.0 and fields(made)["general.architecture"] == "llama"


def test_a_quantised_matrix_is_about_as_small_as_its_type(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    sizes = {}
    for kind in ("f32", "f16", "q8_0"):
        reader = gguf.GGUFReader(to_gguf(source, kind).output / "model.gguf")
        sizes[kind] = sum(t.n_bytes for t in reader.tensors if t.name.endswith("ffn_up.weight"))
        norm = next(t for t in reader.tensors if t.name == "output_norm.weight")
        assert norm.tensor_type.name == "F32"
    numbers = 2 * 40 * 32
    assert sizes == {"f32": 4 * numbers, "f16": 2 * numbers, "q8_0": numbers * 34 // 32}
