"""Reading and writing a checkpoint takes page cache, not the process's own memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from surgery.checkpoint.directory import DirectorySource
from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.validate import check_finite
from surgery.checkpoint.writer import ShardWriter, TensorSpec

MIB = 1 << 20
TENSORS, EACH = 20, 16 * MIB


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    pytest.skip("needs RssAnon of /proc/self/status")


def test_copying_320_mib_takes_little_anonymous_memory(tmp_path: Path) -> None:
    specs = [TensorSpec(f"t{i}", torch.float16, (EACH // 2,)) for i in range(TENSORS)]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "x"}')
    start = anonymous_bytes()
    peak = 0
    with ShardWriter(tmp_path / "model" / "model.safetensors", specs) as out:
        for spec in specs:
            out.write(spec.name, torch.full(spec.shape, 1.0, dtype=spec.dtype))
            peak = max(peak, anonymous_bytes() - start)
    with (
        DirectorySource(tmp_path / "model") as source,
        Transaction(tmp_path / "out", source.identity()) as txn,
    ):
        source.start_hashing()
        with txn.shard("model.safetensors", specs) as out:
            for name in out.remaining:
                tensor = source.tensor(name)
                check_finite(name, tensor)
                out.write(name, tensor)
                source.release(name)
                peak = max(peak, anonymous_bytes() - start)
        assert len(source.sha256()) == 1
        peak = max(peak, anonymous_bytes() - start)
        txn.commit()
    assert peak < 100 * MIB
