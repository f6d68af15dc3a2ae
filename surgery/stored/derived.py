"""A checkpoint read as another one that is made of it, and that is nowhere on disk yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from surgery.checkpoint.header import TensorInfo
from surgery.checkpoint.source import TensorSource


class DerivedSource(TensorSource):
    """Tensors of another checkpoint, uncopied where nothing is changed of them.

    Args:
        whole: The other; not closed with this.
        config: The configuration of this one.
        infos: Its tensors.

    Attributes:
        whole: The other.
    """

    def __init__(
        self, whole: TensorSource, config: dict[str, Any], infos: dict[str, TensorInfo]
    ) -> None:
        self.whole = whole
        super().__init__(whole.name, None, config, infos, whole.metadata)

    def name_there(self, name: str) -> str:
        """Return what the other calls a tensor."""
        return name

    def tensor(self, name: str) -> Tensor:
        """See :meth:`TensorSource.tensor`."""
        return self.whole.tensor(self.name_there(name))

    def raw(self, name: str) -> memoryview:
        """See :meth:`TensorSource.raw`."""
        return self.whole.raw(self.name_there(name))

    def release(self, name: str) -> None:
        """See :meth:`TensorSource.release`."""
        self.whole.release(self.name_there(name))

    def files(self) -> list[Path]:
        """See :meth:`TensorSource.files`."""
        return self.whole.files()

    def identity(self) -> dict[str, Any]:
        """See :meth:`TensorSource.identity`."""
        return self.whole.identity()

    def sidecars(self) -> list[Path]:
        """See :meth:`TensorSource.sidecars`."""
        return self.whole.sidecars()

    def write_sidecars(self, directory: Path) -> list[str]:
        """See :meth:`TensorSource.write_sidecars`."""
        return self.whole.write_sidecars(directory)

    def left_out(self) -> str | None:
        """See :meth:`TensorSource.left_out`."""
        return self.whole.left_out()
