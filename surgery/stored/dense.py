"""A directory to load for any source, so that the original can be run and compared."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from surgery.checkpoint.directory import is_adapter
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.writer import ShardWriter, TensorSpec, write_index
from surgery.stored.adapter import read_adapter
from surgery.stored.adapter_base import find_base
from surgery.stored.stream import INDEX


@contextmanager
def dense_directory(source: TensorSource) -> Iterator[Path]:
    """Yield a directory ``surgery.load`` can load: the source's own, or a temporary conversion."""
    with words_of(source) as directory:
        if source.directory is None:
            _write_weights(source, directory)
        yield directory


def _write_weights(source: TensorSource, directory: Path) -> None:
    shards = {
        shard: [
            TensorSpec(tensor, source.infos[tensor].dtype, source.infos[tensor].shape)
            for tensor in names
        ]
        for shard, names in source.shards.items()
    }
    for shard, specs in shards.items():
        with ShardWriter(directory / shard, specs, metadata=source.metadata) as writer:
            for spec in specs:
                writer.write(spec.name, source.raw(spec.name))
    if len(shards) > 1:
        write_index(directory / INDEX, shards)


@contextmanager
def words_directory(directory: Path) -> Iterator[Path]:
    """Yield where a model's tokenizer or processor is: of an adapter, its base's directory."""
    if not is_adapter(directory):
        yield directory
        return
    with find_base(read_adapter(directory)) as base, words_of(base) as place:
        yield place


@contextmanager
def words_of(source: TensorSource) -> Iterator[Path]:
    """Yield where a checkpoint's tokenizer or processor is, its weights or not."""
    if source.directory is not None:
        yield source.directory
        return
    with tempfile.TemporaryDirectory(prefix="surgery-") as name:
        source.write_sidecars(Path(name))
        (Path(name) / "config.json").write_text(json.dumps(source.config), encoding="utf-8")
        yield Path(name)
