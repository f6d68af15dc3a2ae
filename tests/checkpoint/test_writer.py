"""What is streamed out is what the safetensors library reads back."""

from __future__ import annotations

import errno
import json
import os
import resource
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from surgery.checkpoint import disk, writer
from surgery.checkpoint.directory import DirectorySource
from surgery.checkpoint.writer import ShardWriter, TensorSpec, aligned_order, write_index
from surgery.errors import TargetError

TENSORS = {
    "half": torch.randn(5, 3).half(),
    "brain": torch.randn(7).bfloat16(),
    "strided": torch.randn(4, 6).T,
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
    "ids": torch.arange(6),
    "mask": torch.tensor([True, False, True]),
}


def specs_of(tensors: dict[str, torch.Tensor]) -> list[TensorSpec]:
    return [TensorSpec(name, t.dtype, tuple(t.shape)) for name, t in tensors.items()]


def write_all(path: Path, tensors: dict[str, torch.Tensor], **options: object) -> None:
    with ShardWriter(path, specs_of(tensors), **options) as out:  # type: ignore[arg-type]
        for name in out.remaining:
            out.write(name, tensors[name])


def test_round_trip_through_the_safetensors_library(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_all(path, TENSORS)
    read = load_file(path)
    assert set(read) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    raw = path.read_bytes()
    assert int.from_bytes(raw[:8], "little") % 8 == 0


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    write_all(tmp_path / "one", TENSORS)
    write_all(tmp_path / "two", TENSORS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.uint8]),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        max_size=6,
    )
)
def test_any_mixture_of_dtypes_and_shapes_reads_back(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[torch.dtype, list[int]]]
) -> None:
    path = tmp_path_factory.mktemp("mixture") / "a.safetensors"
    tensors = {
        f"t{number}": torch.full(shape, number, dtype=dtype)
        for number, (dtype, shape) in enumerate(kinds)
    }
    write_all(path, tensors)
    read = load_file(path)
    assert {n: (t.dtype, t.tolist()) for n, t in read.items()} == {
        n: (t.dtype, t.tolist()) for n, t in tensors.items()
    }


def test_the_given_order_is_kept_unless_it_misaligns_a_tensor() -> None:
    fine = specs_of({"a": torch.zeros(2).half(), "b": torch.zeros(1), "c": torch.zeros(1).half()})
    assert aligned_order(fine) == fine
    odd = specs_of({"a": torch.zeros(1).half(), "b": torch.zeros(1), "c": torch.zeros(1)})
    assert [spec.name for spec in aligned_order(odd)] == ["b", "c", "a"]


def test_only_tensors_of_uneven_size_move_when_one_is_misaligned() -> None:
    tensors = {
        "weight": torch.zeros(2, 3).half(),
        "bias": torch.zeros(3).half(),
        "part": torch.zeros(2),
        "next": torch.zeros(4).half(),
        "flag": torch.zeros(1).bool(),
    }
    order = [spec.name for spec in aligned_order(specs_of(tensors))]
    assert order == ["weight", "part", "next", "bias", "flag"]


def test_tensors_and_their_bytes_are_written_alike(tmp_path: Path) -> None:
    tensor = torch.randn(9).half()
    octets = tensor.numpy().tobytes()
    spec = [TensorSpec("a", torch.float16, (9,))]
    with ShardWriter(tmp_path / "one", spec) as out:
        assert out.write("a", tensor) == zlib.crc32(octets)
    with ShardWriter(tmp_path / "two", spec) as out:
        assert out.write("a", memoryview(octets)) == zlib.crc32(octets)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_was_not_announced_is_not_written(tmp_path: Path) -> None:
    specs = [TensorSpec("a", torch.float32, (2,)), TensorSpec("b", torch.float32, (2,))]
    out = ShardWriter(tmp_path / "a", specs)
    with pytest.raises(ValueError, match="got tensor 'b', expected 'a'"):
        out.write("b", torch.zeros(2))
    with pytest.raises(ValueError, match="announced"):
        out.write("a", torch.zeros(2).half())
    with pytest.raises(ValueError, match="announced"):
        out.write("a", torch.zeros(2, 1))
    with pytest.raises(ValueError, match="announced 8"):
        out.write("a", bytes(7))
    out.write("a", torch.zeros(2))
    with pytest.raises(ValueError, match="1 tensors were not written"):
        out.close()
    with pytest.raises(ValueError, match="twice"):
        ShardWriter(tmp_path / "b", [specs[0], specs[0]])


def test_the_index_names_every_tensor_and_totals_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    shards = {
        "model-00001-of-00002.safetensors": {"a": torch.ones(2, 3).half()},
        "model-00002-of-00002.safetensors": {"b": torch.ones(4)},
    }
    for file, tensors in shards.items():
        write_all(tmp_path / file, tensors)
    index = tmp_path / "model.safetensors.index.json"
    write_index(index, {file: specs_of(tensors) for file, tensors in shards.items()})
    assert json.loads(index.read_text())["metadata"] == {"total_parameters": 10, "total_size": 28}
    assert set(DirectorySource(tmp_path).infos) == {"a", "b"}


def test_continuing_keeps_what_is_intact_and_cuts_off_the_rest(tmp_path: Path) -> None:
    path, tensors = tmp_path / "a", {f"t{i}": torch.full((50,), float(i)) for i in range(6)}
    crcs: dict[str, int] = {}
    write_all(path, tensors, on_written=crcs.__setitem__)
    whole = path.read_bytes()

    def remaining() -> list[str]:
        out = ShardWriter(path, specs_of(tensors), written=crcs)
        names = out.remaining
        for name in names:
            out.write(name, tensors[name])
        out.close()
        assert path.read_bytes() == whole
        return names

    assert remaining() == []
    path.write_bytes(whole[:-210])  # the last tensor torn, the one before it torn too
    assert remaining() == ["t4", "t5"]
    damaged = bytearray(whole)
    damaged[-3 * 200 - 50] ^= 1  # a bit of t2, as a power cut leaves a page of zeros
    path.write_bytes(damaged)
    assert remaining() == ["t2", "t3", "t4", "t5"]
    path.write_bytes(b"\0" * len(whole))
    assert len(remaining()) == 6


def test_a_full_disk_is_an_error_with_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ShardWriter(tmp_path / "a", [TensorSpec("a", torch.uint8, (1000,))])

    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer.os, "write", full)
    with pytest.raises(TargetError) as caught:
        out.write("a", bytes(1000))
    text = str(caught.value)
    assert "The disk is full" in text
    assert "bytes free" in text
    assert "1,000 bytes more" in text
    assert "--resume" in text


def test_a_real_limit_on_file_size_is_reported_as_such(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = ShardWriter(tmp_path / "a", [TensorSpec("a", torch.uint8, (3 << 20,))])
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(TargetError, match="limit or quota"):
            out.write("a", bytes(3 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_too_little_space_is_noticed_before_the_start(tmp_path: Path) -> None:
    disk.check_space(tmp_path / "not" / "there", 1)
    with pytest.raises(TargetError, match=r"too little free space[\s\S]*bytes free[\s\S]*needed"):
        disk.check_space(tmp_path, 1 << 60)
