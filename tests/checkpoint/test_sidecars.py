"""What lies beside the weights comes along, or is named with the reason why it does not."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import surgery
from surgery.carried.remote_code import FILE
from surgery.checkpoint import sidecars
from surgery.checkpoint.directory import DirectorySource
from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.sidecars import LARGEST, MOST, find_beside, sort_out
from surgery.errors import SurgeryWarning
from tests.engine.support import save_tiny

SENTENCES = {
    "modules.json": json.dumps(
        [
            {
                "idx": 0,
                "name": "0",
                "path": "",
                "type": "sentence_transformers.models.Transformer",
            },
            {
                "idx": 1,
                "name": "1",
                "path": "1_Pooling",
                "type": "sentence_transformers.models.Pooling",
            },
        ]
    ),
    "sentence_bert_config.json": '{"max_seq_length": 64, "do_lower_case": false}',
    "config_sentence_transformers.json": '{"prompts": {}, "similarity_fn_name": "cosine"}',
    "1_Pooling/config.json": '{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true}',
}
"""What sentence-transformers writes beside a BERT."""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    place.mkdir()
    save_file({"a.weight": torch.zeros(2, 3)}, place / "model.safetensors")
    (place / "config.json").write_text('{"model_type": "x"}')
    return place


def put(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(SENTENCES.get(name, "x"))


def files_of(directory: Path) -> set[str]:
    return {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}


def carried(source: Path, out: Path) -> set[str]:
    out.mkdir()
    names = set(DirectorySource(source).write_sidecars(out))
    assert names == files_of(out)
    return names


def test_small_files_come_along_in_their_folders(checkpoint: Path, tmp_path: Path) -> None:
    put(checkpoint, *SENTENCES, "tokenizer.json", "LICENSE.txt", "labels.txt", "deep/er/x.json")
    assert carried(checkpoint, tmp_path / "out") == {
        *SENTENCES,
        "tokenizer.json",
        "LICENSE.txt",
        "labels.txt",
        "deep/er/x.json",
    }
    assert DirectorySource(checkpoint).left_out() is None


@pytest.mark.parametrize(
    ("name", "told", "why"),
    [
        ("modeling_x.py", "modeling_x.py", "code"),
        ("LICENSE.py", "LICENSE.py", "code"),
        ("1_Own/own.py", "1_Own/own.py", "code"),
        ("optimizer.pt", "optimizer.pt", "pickle"),
        ("training_args.bin", "training_args.bin", "pickle"),
        ("tokenizer.pkl", "tokenizer.pkl", "pickle"),
        ("tf_model.h5", "tf_model.h5", "weights"),
        ("adapter_config.json", "adapter_config.json", "weights"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin.index.json", "weights"),
        ("2_Dense/model.safetensors", "2_Dense/", "weights"),
        ("onnx/model.onnx", "onnx/", "weights"),
        ("checkpoint-5/optimizer.pt", "checkpoint-5/", "a pickle"),
        ("work/x.json", "work/", "surgery needs"),
    ],
)
def test_code_pickles_and_other_weights_are_left_and_named(
    checkpoint: Path, tmp_path: Path, name: str, told: str, why: str
) -> None:
    put(checkpoint, name)
    if told.endswith("/"):
        put(checkpoint, f"{told}config.json")
    assert carried(checkpoint, tmp_path / "out") == set()
    note = DirectorySource(checkpoint).left_out()
    assert note is not None and f"{told} (" in note and why in note


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (pickle.dumps([1], protocol=4), "pickle"),
        (b"PK\x03\x04....", "pickle"),
        (b"#!/bin/sh\n", "code"),
        (b"\x7fELF....", "code"),
    ],
)
def test_a_harmless_name_hides_no_code_and_no_pickle(
    checkpoint: Path, tmp_path: Path, content: bytes, why: str
) -> None:
    (checkpoint / "labels.txt").write_bytes(content)
    assert carried(checkpoint, tmp_path / "out") == set()
    assert why in (DirectorySource(checkpoint).left_out() or "")


def test_hidden_files_and_what_a_result_has_of_its_own_stay_behind(
    checkpoint: Path, tmp_path: Path
) -> None:
    put(checkpoint, ".git/config", ".gitattributes", "1_Pooling/.hidden", *sidecars.WRITTEN[1:])
    assert carried(checkpoint, tmp_path / "out") == set()
    assert DirectorySource(checkpoint).left_out() is None
    assert FILE in sidecars.WRITTEN


def test_links_are_followed_within_the_checkpoint_only(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    put(checkpoint, "labels.txt")
    (checkpoint / "inside.txt").symlink_to("labels.txt")
    (checkpoint / "outside.txt").symlink_to(tmp_path / "secret.txt")
    (checkpoint / "folder").symlink_to(tmp_path / "elsewhere")
    (checkpoint / "deep").mkdir()
    (checkpoint / "deep" / "link").symlink_to(tmp_path / "elsewhere")
    (checkpoint / "nothing").symlink_to("nowhere")
    os.mkfifo(checkpoint / "pipe")
    found = find_beside(checkpoint, ["model.safetensors"])
    assert found.carried == ("inside.txt", "labels.txt")
    assert set(found.left_out) == {"outside.txt", "folder/", "deep/link/", "nothing", "pipe"}
    assert carried(checkpoint, tmp_path / "out") == {"inside.txt", "labels.txt"}
    assert not (tmp_path / "out" / "inside.txt").is_symlink()


def test_files_of_the_hubs_cache_are_links_to_its_blobs(checkpoint: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "1", tmp_path / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    put(checkpoint, "modules.json")
    for name in ("modules.json", "config.json", "model.safetensors"):
        (checkpoint / name).rename(blobs / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    assert find_beside(snapshot, ["model.safetensors"]).carried == ("modules.json",)


def test_large_things_are_left_and_a_tokenizer_never() -> None:
    found = sort_out({"tokenizer.json": LARGEST + 1, "big.txt": LARGEST + 1, "small.txt": LARGEST})
    assert found.carried == ("small.txt", "tokenizer.json")
    assert found.left_out == {"big.txt": "more than 16 MB"}
    many = sort_out({f"{number}.wav": LARGEST for number in range(6)})
    assert len(many.carried) == MOST // LARGEST and len(many.left_out) == 2
    folder = sort_out({f"clips/{number}.txt": 1 for number in range(300)})
    assert folder.left_out == {"clips/": "more than 256 files"}
    note = sort_out({f"{number}.py": 1 for number in range(20)}).note or ""
    assert note.count("(code)") == 8 and note.endswith("and 12 more.")


def test_the_embedded_model_leaves_its_clips_where_they_are(tmp_path: Path) -> None:
    source = resolve("whisper-micro")
    names = set(source.write_sidecars(tmp_path))
    assert "tokenizer.json" in names and not any("/" in name or ".md" in name for name in names)
    assert source.left_out() is None


@pytest.mark.filterwarnings("always::surgery.errors.SurgeryWarning")
def test_a_sentence_model_stays_one_through_every_surgery(tmp_path: Path) -> None:
    source = save_tiny("bert", tmp_path / "source")
    put(source, *SENTENCES, "handler.py", "2_Dense/model.safetensors")
    steps = ("cut", "split", "turned")
    options = surgery.Options(by_weights=True)
    reports = [
        surgery.absorb_decompose(source, tmp_path / "cut", options=options),
        surgery.split(tmp_path / "cut", tmp_path / "split", rank=2, targets=("up",)),
        surgery.reparam(tmp_path / "split", tmp_path / "turned", method="goft", targets=("v",)),
    ]
    assert any("handler.py (code)" in note for note in reports[0].notes)
    # From then on there is nothing left to leave out.
    assert not any("not carried over" in note for report in reports[1:] for note in report.notes)
    put(tmp_path / "turned", "modeling_own.py")
    with pytest.warns(SurgeryWarning, match=r"modeling_own\.py \(code\)"):
        surgery.merge(tmp_path / "turned", tmp_path / "merged")
    for step in (*steps, "merged"):
        assert set(SENTENCES) <= files_of(tmp_path / step)
        assert not {"handler.py", "2_Dense/model.safetensors"} & files_of(tmp_path / step)
    for name, text in SENTENCES.items():
        assert (tmp_path / "merged" / name).read_text() == text
