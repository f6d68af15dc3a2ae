"""A safetensors header is believed only when everything in it adds up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from surgery.checkpoint.header import MAX_HEADER_BYTES, parse_header, read_header
from surgery.errors import CheckpointError


def packed(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, dtype: str = "F32", shape: object = (1,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def parse(raw: bytes) -> None:
    parse_header(raw, size=len(raw), file="a.safetensors", where="a.safetensors")


def test_reads_what_the_safetensors_library_writes(tmp_path: Path) -> None:
    tensors = {
        "half": torch.zeros(3, 5, dtype=torch.float16),
        "brain": torch.zeros(2, dtype=torch.bfloat16),
        "scalar": torch.tensor(1.0),
        "empty": torch.zeros(0, 4),
        "ids": torch.arange(7),
        "codes": torch.zeros(4, 4, dtype=torch.int8),
        "mask": torch.zeros(3, dtype=torch.bool),
    }
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    header, raw = read_header(tmp_path / "a.safetensors")
    assert header.metadata == {"format": "pt"}
    assert header.length == len(raw)
    assert {n: (i.dtype, i.shape) for n, i in header.tensors.items()} == {
        n: (t.dtype, tuple(t.shape)) for n, t in tensors.items()
    }
    offsets = [info.offset for info in header.tensors.values()]
    assert offsets == sorted(offsets)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "truncated"),
        (b"\x08\0\0", "truncated"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "truncated"),
        (packed(b"{nonsense"), "not valid JSON"),
        (packed(b'{"a": \xff}'), "not valid JSON"),
        (packed(b"[" * 100_000), "not valid JSON"),
        (packed(b"[]"), "no JSON object"),
        (packed(b'{"a": {}, "a": {}}'), "occurs twice"),
        (packed(b'{"\\ud800": {}}'), "not valid JSON"),
        (packed({"__metadata__": {"a": 1}}), "map of strings"),
        (packed({"a": 1}), "no JSON object"),
        (packed({"a": entry(0, 4, dtype="F33")}, bytes(4)), "unknown dtype"),
        (packed({"a": entry(0, 4, shape=[-1])}, bytes(4)), "list of sizes"),
        (packed({"a": entry(0, 4, shape=[True])}, bytes(4)), "list of sizes"),
        (packed({"a": entry(0, 4, shape=[1.0])}, bytes(4)), "list of sizes"),
        (packed({"a": entry(4, 0)}, bytes(4)), "(begin, end)"),
        (packed({"a": entry(0, 8)}, bytes(8)), "contradict its shape"),
        (packed({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)), "overlap"),
        (packed({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), "hole"),
        (packed({"a": entry(4, 8)}, bytes(8)), "hole"),
        (packed({"a": entry(0, 4)}, bytes(3)), "truncated"),
        (packed({"a": entry(0, 4)}, bytes(5)), "belong to no tensor"),
    ],
)
def test_a_header_that_does_not_add_up_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse(raw)
    assert says in str(caught.value)
    assert "a.safetensors" in str(caught.value)


def test_a_header_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    length = MAX_HEADER_BYTES + 1
    with path.open("wb") as stream:
        stream.write(length.to_bytes(8, "little"))
        stream.truncate(length + 8)  # sparse: costs no disk
    with pytest.raises(CheckpointError, match="larger than any real one"):
        read_header(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors"):
        read_header(tmp_path / "nothing.safetensors")


WHOLE = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)})


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_bytes_give_a_checkpoint_error_or_a_header_that_adds_up(
    data: st.DataObject,
) -> None:
    raw = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    try:
        header = parse_header(bytes(raw), size=len(raw), file="a", where="a")
    except CheckpointError:
        return
    end = header.length
    for info in header.tensors.values():
        assert info.offset == end
        assert info.nbytes == info.numel * info.dtype.itemsize
        end += info.nbytes
    assert end == len(raw)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["a", "__metadata__", "dtype", "shape", "data_offsets"]),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_any_json_gives_a_checkpoint_error_or_an_empty_header(value: object) -> None:
    raw = packed(value)
    try:
        header = parse_header(raw, size=len(raw), file="a", where="a")
    except CheckpointError:
        return
    assert sum(info.nbytes for info in header.tensors.values()) == 0
