"""A checkpoint directory in transformers' layout: config.json and safetensors shards."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import torch

from surgery.checkpoint.header import Header, TensorInfo, read_header
from surgery.checkpoint.mapped import MappedFile
from surgery.checkpoint.sidecars import Beside, copy_sidecars, find_beside, find_sidecars
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.unreadable import CONVERT, refuse_without_weights
from surgery.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter.json"


class DirectorySource(TensorSource):
    """Reads a directory with ``model.safetensors``, or with shards and their index.

    Where both are there, the single file wins, as in transformers.

    Args:
        path: The directory.
        name: Name to show; default the directory's own.
        weights: A single weight file to read instead of the usual names.
        alone: Whether what lies beside the model's own files is none of its business.

    Raises:
        CheckpointError: The config, the index or a shard is missing, corrupt or contradicts
            the others.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str | None = None,
        weights: str | None = None,
        alone: bool = False,
    ) -> None:
        if not path.is_dir():
            raise CheckpointError("There is no such checkpoint directory.", where=path)
        self._path, self._alone = path, alone
        self._paths = _shards(path, weights)
        infos: dict[str, TensorInfo] = {}
        self._headers: dict[str, bytes] = {}
        parsed: dict[str, Header] = {}
        for file, shard in self._paths.items():
            parsed[file], self._headers[file] = read_header(shard, file=file)
            for info in parsed[file].tensors.values():
                if info.name in infos:
                    raise CheckpointError(
                        "Two shards hold the same tensor.",
                        where=path,
                        found=f"{info.name} in {infos[info.name].file} and in {file}",
                    )
                infos[info.name] = info
        if weights is None and SINGLE not in self._paths:
            _check_index(path / INDEX, infos)
        if not infos:
            raise CheckpointError("The checkpoint holds no tensors.", where=path)
        super().__init__(
            name or path.resolve().name,
            path,
            read_config(path / "config.json"),
            infos,
            next(iter(parsed.values())).metadata,
        )
        self._maps: dict[str, MappedFile] = {}

    def tensor(self, name: str) -> torch.Tensor:
        """See :meth:`TensorSource.tensor`."""
        info = self._info(name)
        return self._mapped(info).tensor(info)

    def raw(self, name: str) -> memoryview:
        """See :meth:`TensorSource.raw`."""
        info = self._info(name)
        return self._mapped(info).raw(info) if info.nbytes else memoryview(b"")

    def release(self, name: str) -> None:
        """See :meth:`TensorSource.release`."""
        info = self._info(name)
        if info.file in self._maps:
            self._maps[info.file].release(info)

    def files(self) -> list[Path]:
        """See :meth:`TensorSource.files`."""
        return list(self._paths.values())

    def identity(self) -> dict[str, Any]:
        """See :meth:`TensorSource.identity`."""
        identity = {}
        for file, path in self._paths.items():
            stat = path.stat()
            identity[file] = {
                "bytes": stat.st_size,
                "mtime_ns": stat.st_mtime_ns,
                "header": f"{zlib.crc32(self._headers[file]):08x}",
            }
        return {"name": self.name, "config": self.config, "files": identity}

    def sidecars(self) -> list[Path]:
        """See :meth:`TensorSource.sidecars`."""
        return find_sidecars(self._path)

    def write_sidecars(self, directory: Path) -> list[str]:
        """See :meth:`TensorSource.write_sidecars`."""
        files = [self._path / name for name in self._beside().carried]
        return copy_sidecars(files, directory, root=self._path)

    def left_out(self) -> str | None:
        """See :meth:`TensorSource.left_out`."""
        return self._beside().note

    def _beside(self) -> Beside:
        if self._alone:
            return Beside(tuple(path.name for path in self.sidecars()), {})
        return find_beside(self._path, [INDEX, *(path.name for path in self._paths.values())])

    def _info(self, name: str) -> TensorInfo:
        try:
            return self.infos[name]
        except KeyError:
            raise CheckpointError("There is no such tensor.", where=self.name, found=name) from None

    def _mapped(self, info: TensorInfo) -> MappedFile:
        held = self._maps.get(info.file)
        # Threads may come at once: all must use the one that is kept.
        return held or self._maps.setdefault(info.file, MappedFile(self._paths[info.file]))


def is_adapter(path: str | Path) -> bool:
    """Whether a directory holds only what was trained: an adapter, not a checkpoint."""
    directory = Path(path)
    return (directory / ADAPTER).is_file() and not (directory / "config.json").exists()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: It is not there, or it is something else.
    """
    try:
        loaded = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        raise CheckpointError(
            f"The checkpoint has no {path.name}.",
            where=path.parent,
            hint="give a directory in transformers' layout: config.json beside the safetensors",
        ) from None
    except OSError as error:
        raise CheckpointError(
            "A file of the checkpoint cannot be read.", where=path, found=error.strerror
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError("The file is not valid JSON.", where=path, found=error) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(
            "The file is no JSON object.", where=path, found=type(loaded).__name__
        )
    return loaded


def _no_number(name: str) -> float:
    """Take infinity, as some configurations hold it; nothing can be computed with NaN."""
    if name == "NaN":
        raise ValueError("NaN is no number")
    return float(name)


def read_config(path: Path) -> dict[str, Any]:
    """Read ``config.json`` and require a model type in it.

    Raises:
        CheckpointError: It is missing, not JSON, or names no model type.
    """
    config = read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError(
            "config.json does not say which architecture the checkpoint has.",
            where=path,
            found=config.get("model_type"),
            expected='"model_type": "whisper", "llama", …',
        )
    return config


def index_shards(index: dict[str, Any], where: object) -> dict[str, str]:
    """Return the weight map of an index, tensor name to shard, once it is safe to follow.

    Judges the names alone: files of a hub's cache are links to blobs elsewhere, and fine.

    Raises:
        CheckpointError: The map is missing, or a shard's name is not a bare safetensors name.
    """
    weights = index.get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError("The index has no weight_map.", where=where)
    if not isinstance(index.get("metadata"), dict):
        raise CheckpointError(
            "The index has no metadata, without which transformers loads nothing.",
            where=where,
            found=index.get("metadata"),
            expected="an object",
            hint='write "metadata": {} into it',
        )
    for tensor, shard in weights.items():
        if not isinstance(shard, str) or not shard.endswith(".safetensors"):
            raise CheckpointError(
                "The index points at something that is no safetensors file.",
                where=f"{where}: {tensor}",
                found=shard,
                hint=CONVERT,
            )
        if Path(shard).name != shard or "\\" in shard or "\0" in shard:
            raise CheckpointError(
                "The index points outside its directory.",
                where=f"{where}: {tensor}",
                found=shard,
                expected="a bare file name",
                hint="do not trust this checkpoint: no tool writes such an index by accident",
            )
    return weights


def _shards(path: Path, weights: str | None) -> dict[str, Path]:
    """Shard name to file. A file of another name is mirrored as ``model.safetensors``."""
    if weights is not None:
        return {SINGLE: path / weights}
    if (path / SINGLE).is_file():
        return {SINGLE: path / SINGLE}
    if not (path / INDEX).is_file():
        refuse_without_weights(path)
    shards = sorted(set(index_shards(read_json(path / INDEX), path / INDEX).values()))
    missing = [shard for shard in shards if not (path / shard).is_file()]
    if missing:
        raise CheckpointError(
            "A shard is missing." if len(missing) == 1 else f"{len(missing)} shards are missing.",
            where=path,
            found=f"{len(shards) - len(missing)} of {len(shards)} shards",
            expected=", ".join(missing),
            hint="fetch the missing files, or finish an interrupted download",
        )
    return {shard: path / shard for shard in shards}


def _check_index(path: Path, infos: dict[str, TensorInfo]) -> None:
    weights = index_shards(read_json(path), path)
    for name, shard in weights.items():
        if name not in infos or infos[name].file != shard:
            raise CheckpointError(
                "A tensor of the index is not in its shard.",
                where=path,
                found=f"{name} in {infos[name].file}" if name in infos else f"no {name}",
                expected=f"{name} in {shard}",
            )
    for name, info in infos.items():
        if name not in weights:
            raise CheckpointError(
                "A shard holds a tensor that the index does not know.",
                where=path,
                found=f"{name} in {info.file}",
            )
