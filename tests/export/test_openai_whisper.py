"""openai-whisper runs what is written for it, and a narrow model that is loaded for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery.errors import UnsupportedModelError
from surgery.evaluation.transcribe import transcribe
from surgery.export.openai_whisper.loader import load_openai_whisper
from surgery.export.whisper.form import SPEAKING
from surgery.methods import Remove, Thresholds
from tests.engine.support import config_of, inputs, run, save_tiny
from tests.models import tiny_model
from tests.runtime.naive import relative_error

whisper = pytest.importorskip("whisper")
pytestmark = [
    pytest.mark.usefixtures("no_pictures"),
    # openai-whisper leaves its vocabulary file to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Whisper: 20 positions, 48 tokens, feed-forward blocks 1.5 times its width."""
    return save_tiny("whisper", tmp_path_factory.mktemp("tiny") / "source")


@pytest.fixture(scope="module")
def pruned(source: Path) -> Path:
    """The same with ragged heads in encoder, decoder and cross-attention."""
    options = surgery.Options(rule=Remove(0.25), scope="all", by_weights=True)
    surgery.absorb_decompose(source, source.parent / "pruned", options=options)
    return source.parent / "pruned"


def logits(model: Any) -> torch.Tensor:
    given = inputs(tiny_model("whisper"))
    with torch.inference_mode():
        found: torch.Tensor = model(given["input_features"], given["decoder_input_ids"])
    return found


@pytest.mark.parametrize("name", ["source", "pruned"])
def test_stock_openai_whisper_computes_the_same(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    checkpoint: Path = request.getfixturevalue(name)
    made = surgery.export_model(checkpoint, "openai-whisper", tmp_path / "out")
    assert made.comparison is not None and "logits" in made.comparison.what
    assert made.kept == (None if name == "source" else 0.0)
    assert "20 positions" in made.form and "transcribe cannot" in made.notes[-1]

    stored = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert stored["dims"]["n_audio_ctx"] == 20 and stored["dims"]["n_text_head"] == 2
    model = whisper.load_model(str(tmp_path / "out" / "model.pt"), device="cpu")
    assert relative_error(logits(model), run(surgery.load(checkpoint))) <= 1e-5
    # And back: what was written is itself a checkpoint's tensors under other names.
    back = model.state_dict()["decoder.token_embedding.weight"]
    assert torch.equal(back, surgery.load(checkpoint).get_input_embeddings().weight)


def test_a_narrow_model_computes_the_same_at_the_ranks_that_are_stored(pruned: Path) -> None:
    model = load_openai_whisper(pruned, device="cpu")
    assert isinstance(model, whisper.model.Whisper)
    expected = run(surgery.load(pruned))
    assert relative_error(logits(model), expected) <= 1e-5
    with whisper.model.disable_sdpa():  # as where words are timed
        assert relative_error(logits(model), expected) <= 1e-5

    site = config_of(pruned)["surgery"]["operations"][0]["sites"][
        "model.encoder.layers.0.self_attn"
    ]
    assert len(set(site["qk_ranks"])) > 1, "the test wants ragged heads"
    assert model.encoder.blocks[0].attn.key.weight.shape == (sum(site["qk_ranks"]), 32)


def test_heads_without_values_run_as_narrow_as_any(source: Path, tmp_path: Path) -> None:
    options = surgery.Options(rule=Thresholds(vo=1e9), pairs=("vo",), scope="all")
    surgery.absorb_decompose(source, tmp_path / "cut", options=options)
    model, expected = load_openai_whisper(tmp_path / "cut", device="cpu"), tmp_path / "cut"
    assert model.encoder.blocks[0].attn.value.weight.shape == (0, 32)
    assert relative_error(logits(model), run(surgery.load(expected))) <= 1e-5
    with whisper.model.disable_sdpa():
        assert relative_error(logits(model), run(surgery.load(expected))) <= 1e-5


def test_a_narrow_model_caches_as_narrow_and_says_the_same(pruned: Path) -> None:
    model = load_openai_whisper(pruned, device="cpu")
    given = inputs(tiny_model("whisper"))
    tokens = given["decoder_input_ids"]
    sites = config_of(pruned)["surgery"]["operations"][0]["sites"]
    with torch.inference_mode():
        heard = model.embed_audio(given["input_features"])
        cache, hooks = model.install_kv_cache_hooks()
        steps = [
            model.decoder(tokens[:, place : place + 1], heard, kv_cache=cache)
            for place in range(tokens.shape[1])
        ]
    for hook in hooks:
        hook.remove()
    assert relative_error(torch.cat(steps, dim=1), logits(model)) <= 1e-5
    for layer, block in enumerate(model.decoder.blocks):
        for name, attention in (("self_attn", block.attn), ("encoder_attn", block.cross_attn)):
            site = sites[f"model.decoder.layers.{layer}.{name}"]
            assert cache[attention.key].shape[-1] == sum(site["qk_ranks"])
            assert cache[attention.value].shape[-1] == sum(site["v_ranks"])


def test_a_dense_model_loads_as_the_stock_one(source: Path) -> None:
    model = load_openai_whisper(source, device="cpu")
    assert {type(block.attn) for block in model.encoder.blocks} == {
        whisper.model.MultiHeadAttention
    }
    assert relative_error(logits(model), run(surgery.load(source))) <= 1e-5


def test_what_openai_whisper_cannot_run_is_refused(source: Path, tmp_path: Path) -> None:
    bert = save_tiny("bert", tmp_path / "bert")
    with pytest.raises(UnsupportedModelError, match="loads in transformers as it is"):
        surgery.export_model(bert, "openai-whisper")
    with pytest.raises(UnsupportedModelError, match=r"surgery\.load"):
        load_openai_whisper(bert)
    other = save_tiny("whisper", tmp_path / "relu")
    config = (other / "config.json").read_text().replace('"gelu"', '"relu"')
    (other / "config.json").write_text(config)
    with pytest.raises(UnsupportedModelError, match="its activation is relu"):
        surgery.export_model(other, "openai-whisper")
    mute = save_tiny("whisper", tmp_path / "mute")
    config = (mute / "config.json").read_text().replace(SPEAKING, "WhisperModel")
    (mute / "config.json").write_text(config)
    for target in ("openai-whisper", "ct2", "ggml"):
        with pytest.raises(UnsupportedModelError, match="its class is WhisperModel"):
            surgery.export_model(mute, target)


@pytest.mark.slow
def test_the_real_whisper_pruned_says_the_same_in_openai_whisper(
    shared: Path, tmp_path: Path
) -> None:
    from transformers import WhisperProcessor

    from surgery.evaluation.audio import SpeechFolder

    checkpoint = shared / "checkpoints" / "whisper-tiny.en-digits"
    options = surgery.Options(rule=Remove(0.125), by_weights=True)
    surgery.absorb_decompose(checkpoint, tmp_path / "pruned", options=options)
    made = surgery.export_model(tmp_path / "pruned", "openai-whisper", tmp_path / "out")
    assert made.comparison is not None and made.comparison.what.endswith(
        "the same text of 2 embedded recordings"
    )
    assert "set_alignment_heads" in made.notes[-1]

    folder = SpeechFolder.open(shared / "audio" / "digits" / "test_seen", limit=1)
    clip = folder.audio()[0]
    processor = WhisperProcessor.from_pretrained(checkpoint)
    (expected,) = transcribe(surgery.load(tmp_path / "pruned"), processor, [clip])
    model = load_openai_whisper(tmp_path / "pruned", device="cpu")
    found = whisper.transcribe(
        model,
        clip,
        language="en",
        temperature=0.0,
        without_timestamps=True,
        no_speech_threshold=None,
        fp16=False,
    )
    assert found["text"].strip() == expected
    assert model.alignment_heads.indices().T.tolist() == sorted(
        surgery.load(checkpoint).generation_config.alignment_heads
    )
