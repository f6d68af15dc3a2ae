"""What every readable checkpoint looks like to the rest of the toolkit.

A source names its tensors as transformers does, says where each one lies without reading it,
and hands out single tensors as views of the mapped file: reading a checkpoint grows the page
cache, never the process's own (anonymous) memory.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import torch

from surgery.checkpoint.hashing import FileHashes
from surgery.checkpoint.header import TensorInfo


class TensorSource(ABC):
    """A checkpoint: config, tensors by name, and the files that come along.

    Attributes:
        name: Name to show.
        directory: Directory it was read from; ``None`` where there is none.
        infos: Every tensor, shard by shard, each shard in storage order.
        shards: Shard file name to tensor names in storage order: the layout to mirror.
        metadata: ``__metadata__`` of the first shard.
        remote: Only headers are at hand; :meth:`tensor` raises.
        revision: Revision on the hub that was asked for, if any.
    """

    remote: bool = False
    revision: str | None = None

    def __init__(
        self,
        name: str,
        directory: Path | None,
        config: dict[str, Any],
        infos: dict[str, TensorInfo],
        metadata: dict[str, str],
    ) -> None:
        self.name = name
        self.directory = directory
        self._config = config
        self.infos = infos
        self.metadata = metadata
        self.shards: dict[str, list[str]] = {}
        for info in infos.values():
            self.shards.setdefault(info.file, []).append(info.name)
        self._hashes: FileHashes | None = None

    @property
    def config(self) -> dict[str, Any]:
        """``config.json`` as a dictionary of the caller's own."""
        return copy.deepcopy(self._config)

    def name_class(self, name: str) -> None:
        """Let ``architectures`` of the configuration name this class, where the file names none."""
        self._config["architectures"] = [name]

    @property
    def slug(self) -> str:
        """Last part of the name, fit for a directory name."""
        return self.name.rstrip("/").rsplit("/", 1)[-1]

    @abstractmethod
    def tensor(self, name: str) -> torch.Tensor:
        """Return one tensor as a view of the mapped file, in its stored dtype and shape.

        The mapping is private: writing into the view changes neither the file nor what other
        processes see, but costs memory.

        Raises:
            CheckpointError: There is no such tensor, or only headers are at hand.
        """

    @abstractmethod
    def raw(self, name: str) -> memoryview:
        """Return the stored bytes of one tensor, uncopied.

        Raises:
            CheckpointError: As :meth:`tensor`.
        """

    def release(self, name: str) -> None:  # noqa: B027 (nothing to do is a fine default)
        """Let go of the pages of one tensor; a later read maps them again.

        Keeps the resident set small where a whole checkpoint is read once, front to back.
        """

    @abstractmethod
    def files(self) -> list[Path]:
        """Weight files on disk, in shard order (empty for a remote source)."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what tells this source from any other, as JSON values.

        File names, sizes, modification times and header digests: cheap, and enough to notice
        that a source changed between an interrupted run and its resumption.
        """

    @abstractmethod
    def sidecars(self) -> list[Path]:
        """Tokenizer, processor, generation and licence files: those of the model itself."""

    @abstractmethod
    def write_sidecars(self, directory: Path) -> list[str]:
        """Copy or build the sidecar files in ``directory``; return their names.

        Those of the model itself, and what else lies beside the weights and may come along (see
        :mod:`surgery.checkpoint.sidecars`).

        Raises:
            TargetError: They cannot be written.
        """

    def left_out(self) -> str | None:
        """Return what lies beside the weights and is not written along, as a sentence, if any."""
        return None

    def start_hashing(self, threads: int = 2) -> FileHashes:
        """Begin to hash every weight file in background threads; a second call changes nothing."""
        if self._hashes is None:
            self._hashes = FileHashes(self.files(), threads)
        return self._hashes

    def sha256(self) -> dict[str, str]:
        """Return the SHA-256 of every weight file by file name; waits for the hashing.

        Raises:
            CheckpointError: A file could not be read to its end.
        """
        return self.start_hashing().wait()

    def close(self) -> None:
        """Stop background work. Views handed out stay valid."""
        if self._hashes is not None:
            self._hashes.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
