"""A checkpoint directory is read lazily, or refused with the file that is wrong."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from surgery.checkpoint.directory import DirectorySource
from surgery.checkpoint.quantised import refuse_quantised
from surgery.errors import CheckpointError, UnsupportedModelError

SHARDS = {
    "model-00001-of-00002.safetensors": {
        "a.weight": torch.randn(3, 4).half(),
        "a.bias": torch.randn(3).bfloat16(),
    },
    "model-00002-of-00002.safetensors": {
        "b.weight": torch.randn(2, 2),
        "scalar": torch.tensor(2.0),
    },
}
INDEX = "model.safetensors.index.json"


def write_sharded(directory: Path, weight_map: Mapping[str, str] | None = None) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text('{"model_type": "whisper"}')
    for file, tensors in SHARDS.items():
        save_file(tensors, directory / file, metadata={"format": "pt"})
    true_map = {name: file for file, tensors in SHARDS.items() for name in tensors}
    index = {"metadata": {}, "weight_map": true_map if weight_map is None else weight_map}
    (directory / INDEX).write_text(json.dumps(index))
    return directory


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_sharded(tmp_path / "model")


def test_every_tensor_is_a_view_equal_to_what_was_stored(sharded: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = DirectorySource(sharded)
        for file, tensors in SHARDS.items():
            assert set(source.shards[file]) == set(tensors)
            for name, tensor in tensors.items():
                read = source.tensor(name)
                assert read.dtype == tensor.dtype
                assert torch.equal(read, tensor)
                octets = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
                assert bytes(source.raw(name)) == octets
                source.release(name)
                assert torch.equal(source.tensor(name), tensor)
    assert (source.name, source.slug) == ("model", "model")
    assert source.metadata == {"format": "pt"}
    assert [info.name for info in source.infos.values()] == [
        name for names in source.shards.values() for name in names
    ]


def test_writing_into_a_view_never_reaches_the_file(sharded: Path) -> None:
    source = DirectorySource(sharded)
    source.tensor("b.weight").fill_(7)
    assert torch.equal(
        DirectorySource(sharded).tensor("b.weight"),
        SHARDS["model-00002-of-00002.safetensors"]["b.weight"],
    )


def test_a_misaligned_tensor_is_read_all_the_same(tmp_path: Path) -> None:
    entries = {
        "odd": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "wide": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    text = json.dumps(entries).encode()
    data = b"\x05" + torch.tensor([1.5, -2.0]).numpy().tobytes()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    assert DirectorySource(tmp_path).tensor("wide").tolist() == [1.5, -2.0]


def test_the_hashes_are_those_of_the_files(sharded: Path) -> None:
    source = DirectorySource(sharded)
    source.start_hashing()
    assert source.sha256() == {
        file: hashlib.sha256((sharded / file).read_bytes()).hexdigest() for file in SHARDS
    }


def test_the_config_is_the_callers_own(sharded: Path) -> None:
    source = DirectorySource(sharded)
    source.config["model_type"] = "other"
    assert source.config == {"model_type": "whisper"}


def test_identity_changes_with_the_files(sharded: Path) -> None:
    before = DirectorySource(sharded).identity()
    assert DirectorySource(sharded).identity() == before
    file = "model-00002-of-00002.safetensors"
    save_file({**SHARDS[file], "scalar": torch.tensor(3.0)}, sharded / file)
    assert DirectorySource(sharded).identity() != before


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"shard is missing[\s\S]*model-00002-of-00002"):
        DirectorySource(sharded)


@pytest.mark.parametrize(
    "file", ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "a\\b.safetensors"]
)
def test_an_index_that_points_outside_is_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"")
    directory = write_sharded(tmp_path / "model", {"a.weight": file})
    with pytest.raises(CheckpointError, match="outside its directory"):
        DirectorySource(directory)


def test_an_index_that_points_at_a_pickle_is_refused(tmp_path: Path) -> None:
    directory = write_sharded(tmp_path / "model", {"a.weight": "pytorch_model.bin"})
    with pytest.raises(CheckpointError, match="no safetensors file"):
        DirectorySource(directory)


def test_the_links_of_a_hub_cache_are_followed(sharded: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in sharded.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert len(DirectorySource(snapshot).infos) == 4


def test_an_index_and_its_shards_must_agree(tmp_path: Path) -> None:
    two = list(SHARDS)[1]
    true_map = {name: file for file, tensors in SHARDS.items() for name in tensors}
    extra = write_sharded(tmp_path / "extra", {**true_map, "c.weight": two})
    with pytest.raises(CheckpointError, match=r"not in its shard[\s\S]*c\.weight"):
        DirectorySource(extra)
    moved = write_sharded(tmp_path / "moved", {**true_map, "a.bias": two})
    with pytest.raises(CheckpointError, match=r"not in its shard[\s\S]*a\.bias"):
        DirectorySource(moved)
    fewer = write_sharded(
        tmp_path / "fewer", {name: file for name, file in true_map.items() if name != "scalar"}
    )
    with pytest.raises(CheckpointError, match=r"index does not know[\s\S]*scalar"):
        DirectorySource(fewer)
    twice = write_sharded(tmp_path / "twice")
    save_file({**SHARDS[two], "a.bias": torch.zeros(3)}, twice / two)
    with pytest.raises(CheckpointError, match=r"same tensor[\s\S]*a\.bias"):
        DirectorySource(twice)


def test_a_truncated_shard_is_named(sharded: Path) -> None:
    file = sharded / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"truncated[\s\S]*model-00001-of-00002"):
        DirectorySource(sharded)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, "no config.json"),
        ("{", "not valid JSON"),
        ("[]", "no JSON object"),
        ("{}", "which architecture"),
        (b"\xff\xfe", "not valid JSON"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(
    sharded: Path, config: str | bytes | None, says: str
) -> None:
    path = sharded / "config.json"
    path.unlink()
    if config is not None:
        path.write_bytes(config if isinstance(config, bytes) else config.encode())
    with pytest.raises(CheckpointError, match=says):
        DirectorySource(sharded)


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(CheckpointError, match=r"pickled weights only[\s\S]*save_pretrained"):
        DirectorySource(tmp_path)
    assert not sprung.exists()


def test_a_directory_without_weights_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match=r"holds no weights[\s\S]*config\.json"):
        DirectorySource(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"neither of the names"):
        DirectorySource(tmp_path)


def test_an_unknown_tensor_is_an_error_that_names_it(sharded: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such tensor[\s\S]*nothing\.weight"):
        DirectorySource(sharded).tensor("nothing.weight")


def test_quantised_checkpoints_are_refused(tmp_path: Path) -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "awq"}}
    with pytest.raises(UnsupportedModelError, match=r"quantised[\s\S]*awq"):
        refuse_quantised(config, {})
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for dtype in (torch.int8, torch.uint8, torch.float8_e4m3fn):
        tensors = {
            "x.weight": torch.ones(2, 2).to(dtype),
            "position_ids": torch.arange(3),
            "attn.bias": torch.ones(2, 2, dtype=torch.bool),
        }
        save_file(tensors, tmp_path / "model.safetensors")
        infos = DirectorySource(tmp_path).infos
        with pytest.raises(UnsupportedModelError, match=r"quantised[\s\S]*x\.weight"):
            refuse_quantised({}, infos)
        del infos["x.weight"]
        refuse_quantised({}, infos)


@pytest.mark.parametrize(
    ("files", "what", "hint"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "PEFT", "surgery import"),
        (["config.json", "model.bin", "vocabulary.json"], "CTranslate2", "made from"),
        (["ggml-model-f16.bin"], "whisper.cpp", "made from"),
        (["model.gguf"], "llama.cpp", "made from"),
        (["README.md", "model.pt"], "openai-whisper", "name the .pt"),
    ],
)
def test_what_was_made_for_another_runtime_is_called_that(
    files: list[str], what: str, hint: str, tmp_path: Path
) -> None:
    for file in files:
        (tmp_path / file).write_text("{}")
    with pytest.raises(CheckpointError, match=what) as caught:
        DirectorySource(tmp_path)
    assert hint in str(caught.value.hint)
