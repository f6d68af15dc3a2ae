"""Which known family a model of an unknown one is most like, and what of their keys is other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from typing import Any

from surgery.architectures.base import Architecture
from surgery.errors import first_few

SHOWN = 6
"""Keys that a message names before it says how many more there are."""
UNTOLD = ("_name_or_path", "auto_map", "dtype", "model_type", "torch_dtype", "transformers_version")
"""Keys that say nothing of what a model computes."""


def nearest(raw: Mapping[str, Any], families: Iterable[Architecture]) -> Architecture:
    """Return the family whose name and whose keys are most like a configuration's."""
    name = str(raw.get("model_type"))

    def likeness(family: Architecture) -> float:
        read = _read(family)
        shared = len(read & raw.keys()) / len(read)
        return shared + SequenceMatcher(None, name, family.model_type).ratio()

    return max(families, key=likeness)


def differing(raw: Mapping[str, Any], family: Architecture) -> str:
    """Say what a configuration tells that a family's has no key for, and what it does not tell."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[family.model_type]
    known = {*kind().to_dict(), *kind.attribute_map, *UNTOLD}
    more = sorted(f"{key} = {raw[key]!r:.40}" for key in raw.keys() - known)
    less = sorted(_read(family) - raw.keys())
    told = []
    if more:
        told.append(f"its configuration also says {first_few(more, SHOWN)}")
    if less:
        told.append(f"it does not say {first_few(less, SHOWN)}")
    return " and ".join(told) or "its configuration has the same keys"


def _read(family: Architecture) -> set[str]:
    """Return the keys that say the shape of a family's blocks."""
    found = set()
    for kind in family.attentions:
        found |= {kind.layers, kind.heads, kind.kv_heads, kind.width}
    return {family.aliases.get(name, name) for name in found}
