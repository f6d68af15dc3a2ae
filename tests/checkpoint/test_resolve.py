"""What a user types finds the checkpoint meant, or an error that helps. No network is used."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors
from safetensors.torch import save_file

from surgery.checkpoint import hub
from surgery.checkpoint.directory import DirectorySource
from surgery.checkpoint.names import SHORT_NAMES, known_names
from surgery.checkpoint.resolve import resolve
from surgery.errors import CheckpointError, ModelNotFoundError, TargetError

REPO = "openai/whisper-tiny.en"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_model(directory: Path, file: str = "model.safetensors") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text('{"model_type": "whisper"}')
    save_file({"a.weight": torch.ones(2, 3)}, directory / file)
    return directory


def write_cache(root: Path, repo: str = REPO) -> Path:
    """Lay a model out as the hub client's cache does: blobs, a ref, a snapshot of links."""
    folder = root / f"models--{repo.replace('/', '--')}"
    blobs, snapshot = folder / "blobs", folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    write_model(blobs)
    for path in list(blobs.iterdir()):
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    return root


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("Name or service not known")

    for name in ("model_info", "get_safetensors_metadata"):
        monkeypatch.setattr(huggingface_hub.HfApi, name, refuse)
    for name in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, refuse)


def listing(monkeypatch: pytest.MonkeyPatch, *files: str) -> None:
    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=file, size=3) for file in files])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *args, **kwargs: info)


def test_paths_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "whisper-tiny.en")
    write_model(tmp_path / "openai" / "whisper-tiny.en")
    for model in ("whisper-tiny.en", "openai/whisper-tiny.en", str(tmp_path / "whisper-tiny.en")):
        source = resolve(model)
        assert (source.name, source.directory) == ("whisper-tiny.en", Path(model))


def test_a_safetensors_file_means_its_directory_or_itself(tmp_path: Path) -> None:
    write_model(tmp_path / "a")
    assert resolve(str(tmp_path / "a" / "model.safetensors")).name == "a"
    write_model(tmp_path / "b", "other.safetensors")
    source = resolve(str(tmp_path / "b" / "other.safetensors"))
    assert (source.name, list(source.shards)) == ("other", ["model.safetensors"])
    assert source.tensor("a.weight").sum() == 6
    shard = "model-00001-of-00001.safetensors"
    write_model(tmp_path / "c", shard)
    index = tmp_path / "c" / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a.weight": shard}}))
    for file in (shard, index.name):
        assert list(resolve(str(tmp_path / "c" / file)).shards) == [shard]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="no checkpoint that can be read"):
        resolve(str(tmp_path / "x.gguf"))


@pytest.mark.parametrize(
    ("model", "near"),
    [
        ("whisper-tinny", "whisper-tiny"),
        ("large-v3", "whisper-large-v3"),
        ("lama-2-7b", "llama-2-7b"),
        ("whisper-mikro", "whisper-micro"),
    ],
)
def test_a_wrong_name_lists_the_near_ones_and_all(model: str, near: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(model)
    assert f"did you mean {near}" in str(caught.value)
    assert all(name in str(caught.value) for name in known_names())


@pytest.mark.parametrize("model", ["./nothing", "/no/such/dir", "a/b/c", "missing.pt", ""])
def test_a_wrong_path_says_so(model: str) -> None:
    with pytest.raises(ModelNotFoundError, match="There is no"):
        resolve(model)


@pytest.mark.parametrize(
    ("name", "repo"),
    [
        ("whisper-tiny.en", "openai/whisper-tiny.en"),
        ("Whisper-Large-v3", "openai/whisper-large-v3"),
        ("llama-2-7b", "meta-llama/Llama-2-7b-hf"),
        ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
        ("qwen2-0.5b", "Qwen/Qwen2-0.5B"),
        ("bert-base-uncased", "google-bert/bert-base-uncased"),
        ("gpt2", "openai-community/gpt2"),
    ],
)
def test_short_names_stand_for_hub_ids(tmp_path: Path, offline: None, name: str, repo: str) -> None:
    write_cache(tmp_path, repo)
    source = resolve(name, cache_dir=tmp_path)
    assert (source.name, source.slug) == (repo, repo.split("/")[1])
    assert source.tensor("a.weight").shape == (2, 3)


def test_every_short_name_is_one_repository() -> None:
    assert all(repo.count("/") == 1 for repo in SHORT_NAMES.values())


def test_offline_without_a_copy_says_so(tmp_path: Path, offline: None) -> None:
    with pytest.raises(ModelNotFoundError, match=r"not on this machine[\s\S]*HF_HUB_OFFLINE"):
        resolve(REPO, cache_dir=tmp_path)


def test_without_a_network_the_copy_serves(tmp_path: Path) -> None:
    write_cache(tmp_path)
    for headers_only in (False, True):
        source = resolve(REPO, cache_dir=tmp_path, headers_only=headers_only)
        assert source.tensor("a.weight").shape == (2, 3)


def test_without_a_network_or_a_copy_the_failure_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"cannot be reached[\s\S]*Name or service"):
        resolve(REPO, cache_dir=tmp_path)


def test_an_incomplete_copy_says_what_is_missing(tmp_path: Path, offline: None) -> None:
    write_cache(tmp_path)
    next(tmp_path.glob("*/snapshots/*/model.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="incomplete"):
        resolve(REPO, cache_dir=tmp_path)


def test_only_the_one_set_and_its_companions_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing(
        monkeypatch,
        "README.md",
        "config.json",
        "flax_model.msgpack",
        "generation_config.json",
        "model.fp32-00001-of-00002.safetensors",
        "model.safetensors",
        "model.safetensors.index.fp32.json",
        "modeling_evil.py",
        "modules.json",
        "1_Pooling/config.json",
        "onnx/model.onnx",
        "pytorch_model.bin",
        "tokenizer.json",
    )
    asked: list[str] = []

    def download(repo: str, **options: Any) -> str:
        asked.extend(options["allow_patterns"])
        return str(write_model(tmp_path / "snapshot"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert isinstance(resolve("whisper-large-v3"), DirectorySource)
    assert set(asked) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "modules.json",
        "1_Pooling/config.json",
        "tokenizer.json",
    }


def test_a_sharded_repository_is_fetched_by_its_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = "model-00001-of-00001.safetensors"
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a.weight": shard}}))
    listing(monkeypatch, "config.json", index.name, shard, "model-extra.safetensors")
    asked: list[str] = []

    def download(repo: str, **options: Any) -> str:
        asked.extend(options["allow_patterns"])
        return str(write_model(tmp_path, shard))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **kwargs: str(index))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert list(resolve("some/model").shards) == [shard]
    assert set(asked) == {"config.json", index.name, shard}
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": {"a.weight": "../../x.safetensors"}})
    )
    with pytest.raises(CheckpointError, match="outside its directory"):
        resolve("some/model")


def test_a_repository_of_pickles_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    listing(monkeypatch, "config.json", "pytorch_model.bin", "model.gguf")
    with pytest.raises(CheckpointError, match=r"no safetensors set[\s\S]*pytorch_model\.bin"):
        resolve("some/model")


def test_headers_alone_tell_shapes_and_hold_no_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing(monkeypatch, "config.json", "model.safetensors")
    config = write_model(tmp_path) / "config.json"
    tensor = SimpleNamespace(dtype="F16", shape=[4, 5], data_offsets=(0, 40))
    fetched = SimpleNamespace(
        files_metadata={"model.safetensors": SimpleNamespace(tensors={"a.weight": tensor})}
    )
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **kwargs: str(config))
    monkeypatch.setattr(
        huggingface_hub.HfApi, "get_safetensors_metadata", lambda *args, **kwargs: fetched
    )
    source = resolve(REPO, headers_only=True)
    assert source.remote
    assert source.infos["a.weight"].shape == (4, 5)
    assert source.infos["a.weight"].dtype == torch.float16
    assert source.config == {"model_type": "whisper"}
    for read in (source.tensor, source.raw):
        with pytest.raises(CheckpointError, match="Only the headers"):
            read("a.weight")


def http_error(kind: type[errors.HfHubHTTPError]) -> errors.HfHubHTTPError:
    error = kind.__new__(kind)
    OSError.__init__(error, "refused")
    return error


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (errors.GatedRepoError, r"granted by its owner[\s\S]*log in with `hf auth login`"),
        (errors.RepositoryNotFoundError, r"no repository[\s\S]*did you mean llama-2-7b"),
        (errors.RevisionNotFoundError, r"no such revision[\s\S]*v9"),
    ],
)
def test_what_the_hub_refuses_is_explained(
    monkeypatch: pytest.MonkeyPatch, kind: type[errors.HfHubHTTPError], says: str
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise http_error(kind)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(ModelNotFoundError, match=says):
        resolve("meta-llama/llama-2-7b", revision="v9")


def test_a_disk_filled_by_a_download_is_no_network_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    listing(monkeypatch, "config.json", "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(TargetError, match="filled up"):
        resolve(REPO, cache_dir=tmp_path)


def test_an_error_of_our_own_making_is_not_taken_for_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise TypeError("a bug")

    monkeypatch.setattr(hub, "_list_files", broken)
    with pytest.raises(TypeError):
        resolve(REPO)
