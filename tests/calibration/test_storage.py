"""Statistics come back bit for bit, and only for the model they were taken of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from surgery.calibration.moments import MOMENTS, Moments
from surgery.calibration.statistics import CalibratedOn, Statistics
from surgery.calibration.storage import (
    KEY,
    read_statistics,
    statistics_sha256,
    write_statistics,
)
from surgery.checkpoint.header import read_header
from surgery.errors import CheckpointError, TargetError, UsageError
from tests.calibration.oracle import sites_of
from tests.models import tiny_model

SOURCE = {"a.safetensors": "a" * 64, "b.safetensors": "b" * 64}
SITES = sites_of(tiny_model("llama"))


def moments(seed: int, kv: int = 2, d: int = 8) -> Moments:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(3, kv, 20, d, generator=generator, dtype=torch.float64)
    q, k, c = (rows.mT @ rows + (rows.mT @ rows).mT).unbind()
    return Moments(q, k, c, queries=12.1 + seed / 3, sequences=4)


def statistics() -> Statistics:
    sites = {site.path: moments(number) for number, site in enumerate(SITES)}
    data = CalibratedOn("speech/calib", "audio", ("00ff", "12ab"), 2)
    return Statistics(sites, SOURCE, data, padding_weight=0.1)


def test_statistics_come_back_bit_for_bit(tmp_path: Path) -> None:
    path, written = tmp_path / "new" / "s.safetensors", statistics()
    digest = write_statistics(path, written)
    found = read_statistics(path, source_sha256=SOURCE)
    assert (found.data, found.padding_weight) == (written.data, written.padding_weight)
    assert found.source_sha256 == SOURCE and set(found.sites) == set(written.sites)
    for site, expected in written.sites.items():
        own = found.sites[site]
        assert (own.queries, own.sequences) == (expected.queries, expected.sequences)
        for name in MOMENTS:
            assert torch.equal(getattr(own, name), getattr(expected, name))
    assert statistics_sha256(found) == digest
    assert write_statistics(tmp_path / "again", found) == digest
    assert path.read_bytes() == (tmp_path / "again").read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["again", "new"]


def test_another_model_is_refused_with_the_file_that_differs(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write_statistics(path, statistics())
    with pytest.raises(UsageError, match=r"(?s)b\.safetensors differs.*--calibrate"):
        read_statistics(path, source_sha256=SOURCE | {"b.safetensors": "c" * 64})
    with pytest.raises(UsageError, match=r"(?s)c\.safetensors differs.*a\.safetensors"):
        read_statistics(path, source_sha256=SOURCE | {"c.safetensors": "c" * 64})
    with pytest.raises(UsageError, match=r"b\.safetensors is not part of this one"):
        read_statistics(path, source_sha256={"a.safetensors": "a" * 64})
    renamed = {f"renamed-{name}": digest for name, digest in SOURCE.items()}
    assert read_statistics(path, source_sha256=renamed).sites


def test_some_of_the_blocks_can_be_had_and_a_missing_one_is_named() -> None:
    whole = statistics()
    assert list(whole.select(SITES[1:])) == [SITES[1].path]
    part = Statistics({SITES[0].path: moments(0)}, SOURCE, whole.data, 0.1)
    with pytest.raises(UsageError, match=r"(?s)layers\.1\.self_attn.*calibrate again"):
        part.select(SITES)
    odd = Statistics({SITES[0].path: moments(0, kv=1)}, SOURCE, whole.data, 0.1)
    with pytest.raises(UsageError, match=r"(?s)another shape.*layers\.0\.self_attn: q"):
        odd.select(SITES[:1])


def damaged(path: Path, change: Any) -> None:
    """Rewrite a file of statistics after ``change(tensors, described)``."""
    tensors = load_file(path)
    described = json.loads(read_header(path)[0].metadata[KEY])
    change(tensors, described)
    save_file(tensors, path, {KEY: json.dumps(described)})


FIRST = f"{SITES[0].path}/q"


def poke(value: float, *where: int) -> Any:
    def change(tensors: Any, _: Any) -> None:
        tensors[FIRST][where] = value

    return change


DAMAGE: dict[str, Any] = {
    "nan": poke(torch.nan, 0, 0, 0),
    "infinity": poke(torch.inf, 0, 0, 0),
    "not symmetric": poke(9.0, 0, 0, 1),
    "negative square": poke(-1.0, 0, 0, 0),
    "missing tensor": lambda tensors, _: tensors.pop(FIRST),
    "strange tensor": lambda tensors, _: tensors.update(x=torch.zeros(1)),
    "dtype": lambda tensors, _: tensors.update({FIRST: tensors[FIRST].float()}),
    "shape": lambda tensors, _: tensors.update({FIRST: tensors[FIRST][:, :4, :4].clone()}),
    "missing site": lambda _, described: described["sites"].popitem(),
    "no data": lambda _, described: described.pop("data"),
    "kind": lambda _, described: described["data"].update(kind="video"),
    "sources": lambda _, described: described.update(source_sha256=["a"]),
    "weight": lambda _, described: described["sites"][SITES[0].path].update(queries=0),
    "sequences": lambda _, described: described["sites"][SITES[0].path].update(sequences="x"),
    "padding": lambda _, described: described.update(padding_weight=float("nan")),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_statistics_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    write_statistics(path, statistics())
    damaged(path, DAMAGE[kind])
    with pytest.raises(CheckpointError, match="damaged"):
        read_statistics(path, source_sha256=SOURCE)


def test_foreign_files_are_refused_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="no such file"):
        read_statistics(path, source_sha256=SOURCE)
    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="no calibration statistics"):
        read_statistics(path, source_sha256=SOURCE)
    for content in (path.read_bytes(), b"words", b""):
        path.write_bytes(content)
        with pytest.raises(TargetError, match="something else"):
            write_statistics(path, statistics())
        with pytest.raises(CheckpointError):
            read_statistics(path, source_sha256=SOURCE)
        assert path.read_bytes() == content
    with pytest.raises(TargetError):
        write_statistics(tmp_path, statistics())


def test_statistics_are_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    write_statistics(path, statistics())
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    other = Statistics({SITES[0].path: moments(9)}, SOURCE, statistics().data, 0.5)
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(TargetError, match="disk is full"):
            write_statistics(path, other)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    write_statistics(path, other)
    assert list(read_statistics(path, source_sha256=SOURCE).sites) == [SITES[0].path]


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write_statistics(path, statistics())
    damaged(path, lambda _, described: described.update(version=2))
    with pytest.raises(CheckpointError, match="another version"):
        read_statistics(path, source_sha256=SOURCE)
