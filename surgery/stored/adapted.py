"""An adapter on its base, read as if it were one checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from surgery.checkpoint.directory import is_adapter
from surgery.checkpoint.header import TensorInfo
from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.writer import tensor_bytes
from surgery.errors import UsageError
from surgery.events import Progress, ignore
from surgery.stored.adapter import check_fits, read_adapter
from surgery.stored.adapter_base import open_base
from surgery.stored.adapter_content import WEIGHTS, Adapter
from surgery.stored.block import read_operations, surgery_block
from surgery.stored.stream import cast


class AdaptedSource(TensorSource):
    """A base with an adapter's tensors in place of its own and beside them.

    ``infos`` give what the base has in the base's dtype; what it lacks lies in the shard of the map
    that it belongs to. The configuration lists the adapter's operation after the base's.

    Args:
        adapter: The adapter.
        base: The base it was proved to belong on; closed with this.

    Raises:
        CheckpointError: They do not fit each other.
    """

    def __init__(self, adapter: Adapter, base: TensorSource) -> None:
        check_fits(adapter.infos, adapter.operation, base, where=adapter.directory)
        self.adapter = adapter
        self.base = base
        config = base.config
        if adapter.operation is not None:
            before = read_operations(config, where=f"{base.name}/config.json")
            config["surgery"] = surgery_block([*before, adapter.operation])
        name = adapter.directory.resolve().name
        infos = _together(adapter, base)
        super().__init__(name, adapter.directory, config, infos, base.metadata)

    def tensor(self, name: str) -> Tensor:
        """See :meth:`TensorSource.tensor`; a trained tensor comes in the dtype it was trained in.

        So whoever computes with it rounds once, at the end.
        """
        return (self.adapter if name in self.adapter.infos else self.base).tensor(name)

    def raw(self, name: str) -> memoryview:
        """See :meth:`TensorSource.raw`; a trained tensor is cast to the base's dtype."""
        if name in self.adapter.infos:
            return tensor_bytes(cast(name, self.tensor(name), self.infos[name].dtype))
        return self.base.raw(name)

    def release(self, name: str) -> None:
        """See :meth:`TensorSource.release`."""
        if name not in self.adapter.infos:
            self.base.release(name)

    def files(self) -> list[Path]:
        """See :meth:`TensorSource.files`."""
        return [*self.base.files(), self.adapter.directory / WEIGHTS]

    def identity(self) -> dict[str, Any]:
        """See :meth:`TensorSource.identity`."""
        stat = (self.adapter.directory / WEIGHTS).stat()
        return {
            "name": self.name,
            "operation": self.adapter.operation,
            "bytes": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "base": self.base.identity(),
        }

    def sidecars(self) -> list[Path]:
        """See :meth:`TensorSource.sidecars`."""
        return self.base.sidecars()

    def write_sidecars(self, directory: Path) -> list[str]:
        """See :meth:`TensorSource.write_sidecars`."""
        return self.base.write_sidecars(directory)

    def left_out(self) -> str | None:
        """See :meth:`TensorSource.left_out`."""
        return self.base.left_out()

    def close(self) -> None:
        """See :meth:`TensorSource.close`."""
        super().close()
        self.base.close()


def open_model(
    model: str | Path, *, base: str | Path | None = None, progress: Progress = ignore
) -> TensorSource:
    """Open a checkpoint by whatever names it, or an adapter on its base.

    Args:
        model: Anything :func:`surgery.checkpoint.resolve.resolve` takes, or an adapter.
        base: Where the adapter's base is, if it is not where it was.
        progress: Called around the hashing of a base.

    Raises:
        UsageError: A base is given for what is no adapter.
        SurgeryError: It cannot be found or read, or the base is another one.
    """
    directory = Path(model).expanduser()
    if not is_adapter(directory):
        if base is not None:
            raise UsageError(
                "Only an adapter has a base",
                where="--base",
                found=f"{model} is a checkpoint of its own",
                hint="leave it out; the model behind a PEFT adapter is --original",
            )
        return resolve(str(model))
    adapter = read_adapter(directory)
    source = open_base(adapter, base, progress=progress)
    try:
        return AdaptedSource(adapter, source)
    except BaseException:
        source.close()
        raise


def _together(adapter: Adapter, base: TensorSource) -> dict[str, TensorInfo]:
    """Return every tensor in the base's order; new parts follow their map's weight."""
    new: dict[str, list[TensorInfo]] = {}
    for name, info in adapter.infos.items():
        if name not in base.infos:
            new.setdefault(f"{name.rpartition('.')[0]}.weight", []).append(info)
    infos: dict[str, TensorInfo] = {}
    for name, info in base.infos.items():
        infos[name] = info
        for part in new.pop(name, []):
            infos[part.name] = replace(part, file=info.file)
    for part in (part for parts in new.values() for part in parts):  # of maps that are not there
        infos[part.name] = replace(part, file=next(iter(base.shards)))
    return infos
