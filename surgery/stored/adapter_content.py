"""What an adapter directory says, read once; its tensors are mapped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from surgery.checkpoint.header import TensorInfo
from surgery.checkpoint.mapped import MappedFile
from surgery.checkpoint.validate import check_finite

WEIGHTS = "adapter.safetensors"


@dataclass(frozen=True)
class Adapter:
    """What an adapter directory says; its tensors are read when they are asked for.

    Attributes:
        directory: Where it lies.
        base_name: What the base was called.
        base_path: Where the base was, relative to ``directory``: a hint, which the hash proves.
        sha256: Hash of each weight file of the base.
        operation: The operation that the tensors make which the base lacks; ``None`` where
            all of them replace tensors of the base.
        trained: ``method`` and number of ``parameters``.
        options: The run's, by the command line's names.
        provenance: ``data``, ``versions`` and what else the run noted.
        infos: Every tensor, as its header says.
    """

    directory: Path
    base_name: str
    base_path: str | None
    sha256: Mapping[str, str]
    operation: dict[str, Any] | None
    trained: Mapping[str, Any]
    options: Mapping[str, Any]
    provenance: Mapping[str, Any]
    infos: Mapping[str, TensorInfo]

    @cached_property
    def _mapped(self) -> MappedFile:
        return MappedFile(self.directory / WEIGHTS)

    def tensor(self, name: str) -> Tensor:
        """Return one tensor as it is stored, a view of the mapped file.

        Raises:
            CheckpointError: It holds values that are not finite.
        """
        tensor = self._mapped.tensor(self.infos[name])
        check_finite(name, tensor)
        return tensor
