"""A checkpoint read as if some of its layers were not there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from surgery.architectures.dropping import (
    Layer,
    by_tower,
    layers_of,
    renamed,
    renumbered,
    shallower,
)
from surgery.checkpoint.directory import read_json
from surgery.checkpoint.disk import target_errors
from surgery.runtime.manifest import COMPRESS
from surgery.stored.block import Operation, surgery_block
from surgery.stored.derived import DerivedSource
from surgery.stored.stored import Stored

GENERATION = "generation_config.json"
LAYERS = "dropped_layers"
"""What an operation's provenance calls the layers that left, by tower and the numbers of before."""


class ShallowerSource(DerivedSource):
    """The layers that stay, under the names and in the configuration of a shallower model.

    Tensors are those of the whole checkpoint, uncopied. It has no directory: nothing on disk is
    this model yet.

    Args:
        stored: The whole checkpoint; not closed with this.
        layers: Those that go.

    Attributes:
        whole: The whole checkpoint.
        lost: Keys of ``generation_config.json`` that spoke of nothing but these layers, once it was
            written.

    Raises:
        CheckpointError: Its configuration speaks of layers in a way that nothing here knows.
    """

    def __init__(self, stored: Stored, layers: Iterable[Layer]) -> None:
        whole, family, prefix = stored.source, stored.family, stored.claims.prefix
        self._family = family
        self._dropped = by_tower(layers)
        self.lost: list[str] = []
        where = f"{whole.name}/config.json"
        config = shallower(family, whole.config, stored.config, self._dropped, where=where)
        self._whole_names: dict[str, str] = {}
        infos = {}
        for name, info in whole.infos.items():
            new = renamed(family, prefix, name, self._dropped)
            if new is not None:
                self._whole_names[new] = name
                infos[new] = replace(info, name=new)
        if stored.operations:
            config["surgery"] = surgery_block(
                [self._moved(one, prefix) for one in stored.operations]
            )
        super().__init__(whole, config, infos)

    def name_there(self, name: str) -> str:
        """See :meth:`DerivedSource.name_there`."""
        return self._whole_names.get(name, name)

    def identity(self) -> dict[str, Any]:
        """See :meth:`TensorSource.identity`."""
        return {**self.whole.identity(), "dropped": self._dropped}

    def write_sidecars(self, directory: Path) -> list[str]:
        """See :meth:`TensorSource.write_sidecars`; what speaks of layers by number follows."""
        written = self.whole.write_sidecars(directory)
        path = directory / GENERATION
        if path.is_file():
            raw = read_json(path)
            new = renumbered(self._family, raw, self._dropped, where=f"{self.name}/{GENERATION}")
            self.lost = [key for key in raw if key not in new]
            if new != raw:
                with target_errors(path):
                    text = json.dumps(new, indent=2) + "\n"
                    path.write_text(text, encoding="utf-8", newline="\n")
        return written

    def _moved(self, operation: Operation, prefix: str) -> Operation:
        """Return what was done before, to the modules that stay, by their new names."""
        names = {
            path: renamed(self._family, prefix, path, self._dropped) for path in operation["sites"]
        }
        sites = {new: operation["sites"][old] for old, new in names.items() if new is not None}
        return {**operation, "sites": sites}


def layers_gone(old: Stored, new: Stored) -> list[Layer]:
    """Return the layers of one checkpoint that another, made from it, lacks, by its numbers.

    By what the operations since then say: they count from what the one before had left.
    """
    have = layers_of(old.family, old.config, old.claims)
    stay = {scope: list(numbers) for scope, numbers in by_tower(have).items()}
    for operation in new.operations[len(old.operations) :]:
        if operation["method"] != COMPRESS:  # others of the same run tell of the same
            continue
        dropped = operation["provenance"].get(LAYERS)
        for scope, gone in (dropped if isinstance(dropped, dict) else {}).items():
            if scope in stay and isinstance(gone, list):
                stay[scope] = [one for at, one in enumerate(stay[scope]) if at not in gone]
    return [layer for layer in have if layer.layer not in stay[layer.scope]]
