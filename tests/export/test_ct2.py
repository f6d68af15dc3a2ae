"""CTranslate2 runs what is written for it: its own converter's bytes, and small blocks as ours."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

import surgery
from surgery.checkpoint.resolve import resolve
from surgery.errors import CheckpointError, SurgeryError, UnsupportedModelError
from surgery.evaluation.audio import SpeechFolder
from surgery.evaluation.transcribe import transcribe
from surgery.export.ct2 import names as ct2_names
from surgery.export.ct2.quantise import QUANTIZATIONS
from surgery.export.reference import Reference
from surgery.export.run import Exported
from surgery.export.target import Choice
from surgery.export.targets import target
from surgery.micro.assets import DIRECTORY
from surgery.runtime.heads import SiteRanks
from surgery.stored.stored import read_stored
from tests.engine.spoken import save_listener
from tests.engine.support import config_of, save_tiny, tensors_of
from tests.engine.test_rope_pairs import write

ctranslate2 = pytest.importorskip("ctranslate2")
pytestmark = pytest.mark.usefixtures("no_pictures")

BESIDE = ("tokenizer.json", "preprocessor_config.json", "generation_config.json")
SAME = "the same text of 2 embedded recordings"
Ranks = Callable[[int, int, int], tuple[list[int], list[int]]]
"""Ranks of QK and of VO, of the block of that number with so many heads of that width."""


def cut(directory: Path, ranks: Ranks, dtype: str = "fp32") -> Path:
    """Prune a tiny listening Whisper, every block at ranks of its own."""
    source = save_listener(directory / "source", dtype=dtype)
    with resolve(str(source)) as opened:
        sites = read_stored(opened).claims.sites
    wanted = {}
    for number, site in enumerate(sites):
        qk, vo = ranks(number, site.heads, site.head_dim)
        wanted[site.path] = SiteRanks(tuple(qk), tuple(vo))
    made = write(source, directory / "pruned", wanted)
    for name in (*BESIDE, "tokenizer_config.json"):
        shutil.copy(source / name, made)
    return made


def uneven(number: int, heads: int, width: int) -> tuple[list[int], list[int]]:
    """One rank for all heads of a block, another in every block: 1, odd ones, and full."""
    rank = (1, 3, width, 5, width - 1, 2)[number]
    return [rank] * heads, [rank] * heads


def ragged(number: int, heads: int, width: int) -> tuple[list[int], list[int]]:
    """Every head another rank, and other ones of QK than of VO; the first has no values."""
    vo = [0, *(2 + head for head in range(1, heads))]
    return [1 + (number + head) % 3 for head in range(heads)], vo


def numbers(directory: Path) -> int:
    return sum(tensor.numel() for tensor in tensors_of(directory).values())


def to_ct2(checkpoint: Path, quantization: str | None = None, **options: Any) -> Exported:
    out = checkpoint.with_name(f"{checkpoint.name}-{quantization}")
    return surgery.export_model(checkpoint, "ct2", out, quantization=quantization, **options)


@cache
def _dense(dtype: str) -> Any:
    """A tiny Whisper as CTranslate2's converter reads it."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as temporary:
        saved = save_listener(Path(temporary), dtype=dtype)
        return transformers.WhisperForConditionalGeneration.from_pretrained(saved, dtype="auto")


def converted(dtype: str, quantization: str | None, directory: Path) -> bytes:
    """The model.bin that CTranslate2 itself makes of a tiny Whisper."""
    from ctranslate2.converters.transformers import WhisperLoader

    with torch.no_grad():
        spec = WhisperLoader().get_model_spec(copy.deepcopy(_dense(dtype)))  # which it changes
    spec.register_vocabulary([str(number) for number in range(64)])
    spec.validate()
    spec.optimize(quantization)
    directory.mkdir()
    spec.save(str(directory))
    return (directory / "model.bin").read_bytes()


@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [
        *(("fp32", one) for one in (None, *QUANTIZATIONS)),
        *product(("fp16", "bf16"), (None, "float32", "int8")),
    ],
)
def test_a_dense_model_is_written_byte_for_byte_as_by_its_own_converter(
    dtype: str, quantization: str | None, tmp_path: Path
) -> None:
    source = save_listener(tmp_path / "source", dtype=dtype)
    made = to_ct2(source, quantization, verify=False)
    theirs = converted(dtype, quantization, tmp_path / "theirs")
    assert (made.output / "model.bin").read_bytes() == theirs


def test_the_files_beside_a_model_are_those_of_its_own_converter(tmp_path: Path) -> None:
    converter = ctranslate2.converters.TransformersConverter(str(DIRECTORY))
    converter.convert(str(tmp_path / "theirs"))
    made = surgery.export_model("whisper-micro", "ct2", tmp_path / "ours", verify=False)
    for name in ("config.json", "vocabulary.json"):
        theirs = json.loads((tmp_path / "theirs" / name).read_text("utf-8"))
        ours = json.loads((made.output / name).read_text("utf-8"))
        if name == "config.json":  # their null is our empty list
            theirs = {key: value or [] for key, value in theirs.items()}
        assert ours == theirs, name
    assert (made.output / "model.bin").read_bytes() == (tmp_path / "theirs/model.bin").read_bytes()


@pytest.mark.parametrize("quantization", [None, "float16", "int8"])
def test_blocks_of_one_rank_stay_small_whatever_it_is(
    quantization: str | None, tmp_path: Path
) -> None:
    made = to_ct2(cut(tmp_path, uneven), quantization)
    assert made.kept == 1.0 and made.comparison is not None and made.comparison.error is not None
    if quantization is None:
        assert made.comparison.error < 1e-5 and made.comparison.what.endswith(SAME)
    # As many numbers fewer as surgery removed, but the zeros that stand for biases of k.
    dense = to_ct2(tmp_path / "source", quantization, verify=False)
    size = {None: 4, "float16": 2, "int8": 1}[quantization]
    saved = dense.files["model.bin"] - made.files["model.bin"]
    assert saved >= size * (numbers(tmp_path / "source") - numbers(tmp_path / "pruned"))


def test_ragged_heads_are_padded_and_the_savings_counted(tmp_path: Path) -> None:
    made = to_ct2(cut(tmp_path, ragged))  # and says what the ragged model says
    widths: Ranks = lambda *at: ([max(map(max, ragged(*at)))] * at[1],) * 2  # noqa: E731
    padded = cut(tmp_path / "padded", widths)
    dense = numbers(tmp_path / "source")
    there, here = dense - numbers(padded), dense - numbers(tmp_path / "pruned")
    assert made.kept == pytest.approx(there / here, rel=1e-12) and 0 < made.kept < 1
    assert "padded" in made.form
    with resolve(str(tmp_path / "pruned")) as opened:
        fit = target("ct2").fit(read_stored(opened), Choice())
    assert fit.kept == made.kept and "--layout tied" in str(fit.remedy)


def test_a_pruned_model_is_exported_with_its_words_and_its_small_parts(tmp_path: Path) -> None:
    options = surgery.Options(
        rule=surgery.Remove(0.25), layout="tied", dtype="float32", by_weights=True
    )
    surgery.absorb_decompose(DIRECTORY, tmp_path / "pruned", options=options)
    surgery.split(tmp_path / "pruned", tmp_path / "split", method="sorsa", rank=3)
    for place, quantization in (("pruned", "float32"), ("pruned", "int8"), ("split", None)):
        out = tmp_path / f"{place}-ct2"
        made = surgery.export_model(
            tmp_path / place, "ct2", out, quantization=quantization, force=True
        )
        assert made.kept == 1.0 and made.comparison is not None
        assert made.comparison.what.endswith(SAME)
        assert made.comparison.bound == (0.25 if quantization == "int8" else 1e-4)
        assert "30 s" in made.notes[0]  # which this one does not hear at once
        files = {"model.bin", "config.json", "vocabulary.json", *BESIDE[:2], "README.md"}
        assert set(made.files) == files


def test_a_model_that_does_not_say_how_it_speaks_is_compared_by_its_first_scores(
    tmp_path: Path,
) -> None:
    copytree(DIRECTORY, tmp_path / "micro")
    (tmp_path / "micro" / "generation_config.json").unlink()
    made = surgery.export_model(tmp_path / "micro", "ct2", tmp_path / "out")
    assert made.comparison is not None
    assert made.comparison.what.startswith("encoder and first scores on 2 recordings; no text: ")


def test_languages_tasks_and_tokens_never_said_are_the_same(tmp_path: Path) -> None:
    source = save_listener(tmp_path / "source")
    place = source / "generation_config.json"
    known = json.loads(place.read_text("utf-8")) | {
        "is_multilingual": True,
        "lang_to_id": {"<|en|>": 58},
        "task_to_id": {"translate": 59, "transcribe": 60},
    }
    texts = []
    for _ in range(2):
        place.write_text(json.dumps(known))
        made = to_ct2(source, force=True)
        assert made.comparison is not None and made.comparison.what.endswith(SAME)
        with resolve(str(source)) as opened:
            prompt, said = Reference(opened).said
        assert prompt == [57, 58, 60, 63]
        texts.append(said[0])
        known |= {"suppress_tokens": [said[0][1]], "begin_suppress_tokens": [said[0][0]]}
    assert texts[0][0] != texts[1][0] and texts[0][1] not in texts[1]
    assert config_of(made.output)["suppress_ids"] == [texts[0][1]]
    assert config_of(made.output)["lang_ids"] == [58]


def test_weights_that_are_written_wrongly_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = cut(tmp_path, uneven)
    before = sorted(tmp_path.iterdir())
    right = ct2_names._tower

    def exchanged(tower: str, layers: int) -> Any:
        """Take another norm at the decoder's end, which the encoder knows nothing of."""
        for name, tensor, weight in right(tower, layers):
            yield (
                name,
                tensor.replace("decoder.layer_norm", "decoder.layers.0.final_layer_norm"),
                weight,
            )

    monkeypatch.setattr(ct2_names, "_tower", exchanged)
    for quantization in (None, "int8"):
        with pytest.raises(SurgeryError, match="does not compute what the checkpoint computes"):
            to_ct2(source, quantization)
    assert sorted(tmp_path.iterdir()) == before


def test_what_it_cannot_hold_is_refused_with_the_reason(tmp_path: Path) -> None:
    llama = save_tiny("llama", tmp_path / "llama")
    relu = save_listener(tmp_path / "relu")
    (relu / "config.json").write_text(json.dumps(config_of(relu) | {"activation_function": "relu"}))
    for place, reason in ((llama, "only Whisper"), (relu, "relu")):
        with pytest.raises(UnsupportedModelError, match="cannot hold") as caught:
            surgery.export_model(place, "ct2")
        assert reason in str(caught.value.found)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "has no tokenizer"), ("{", "cannot be read"), ("other", "none of Whisper's")],
)
def test_a_model_without_whispers_words_is_refused(
    text: str | None, message: str, tmp_path: Path
) -> None:
    source = save_listener(tmp_path / "source")
    place = source / "tokenizer.json"
    known = place.read_text("utf-8")
    place.unlink()
    if text is not None:
        other = known.replace("<|notimestamps|>", "<|timeless|>")
        place.write_text(other if text == "other" else text)
    with pytest.raises(CheckpointError, match=message):
        surgery.export_model(source, "ct2", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.encoder.layers.0.fc1.weight", 1e5, "does not fit float16"),
        ("model.decoder.embed_tokens.weight", None, "is missing"),
    ],
)
def test_weights_that_it_cannot_hold_are_refused(
    name: str, change: float | None, message: str, tmp_path: Path
) -> None:
    source = save_listener(tmp_path / "source")
    tensors = tensors_of(source)
    if change is None:
        del tensors[name]
    else:
        tensors[name][0, 0] = change
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SurgeryError, match=message) as caught:
        to_ct2(source, "float16")
    assert "--dtype" not in str(caught.value)


def test_faster_whisper_says_what_our_runtime_says(shared: Path, tmp_path: Path) -> None:
    faster_whisper = pytest.importorskip("faster_whisper")
    model = shared / "checkpoints/whisper-tiny.en-digits"
    options = surgery.Options(
        rule=surgery.Remove(0.25), layout="tied", scope="encoder", by_weights=True
    )
    surgery.absorb_decompose(model, tmp_path / "pruned", options=options)
    (tmp_path / "pruned/tokenizer.json").unlink()  # it is made anew from the older files
    made = to_ct2(tmp_path / "pruned", verify=False)
    assert made.kept == 1.0 and not made.notes
    clips = [
        one.audio() for one in SpeechFolder.open(shared / "audio/digits/test_seen").utterances[:2]
    ]
    processor = transformers.WhisperProcessor.from_pretrained(model)
    ours = transcribe(surgery.load(tmp_path / "pruned", dtype=torch.float32), processor, clips)
    theirs = faster_whisper.WhisperModel(str(made.output), device="cpu", compute_type="float32")
    for text, clip in zip(ours, clips, strict=True):
        # It fills its window with zeros behind the log-mel, we with silence before it.
        clip = np.pad(clip, (0, 30 * 16000 - len(clip)))
        segments, _ = theirs.transcribe(clip, beam_size=1, language="en", without_timestamps=True)
        assert " ".join(segment.text.strip() for segment in segments) == text
