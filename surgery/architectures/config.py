"""The few values of ``config.json`` that say an attention block's shape, defaults filled in.

Read as data, without transformers: importing its models takes longer than many a run. The
contract test compares every value with what transformers itself makes of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.architectures.base import Architecture
from surgery.errors import CheckpointError

LARGEST = 1 << 24
"""No dimension of a real model comes near this."""


class Config:
    """Attributes of one family's configuration.

    Args:
        family: Says the aliases and defaults.
        raw: The parsed ``config.json``.
        where: Its name, for messages.

    Raises:
        CheckpointError: A dimension is no positive integer.
    """

    def __init__(self, family: Architecture, raw: Mapping[str, Any], where: str) -> None:
        self._values = {**family.defaults, **raw}
        for name, key in family.aliases.items():
            if key in self._values:
                self._values[name] = self._values[key]
        rope = self._values.get("rope_parameters") or self._values.get("rope_scaling")
        if isinstance(rope, dict) and "partial_rotary_factor" in rope:  # as transformers 5 writes
            self._values["partial_rotary_factor"] = rope["partial_rotary_factor"]
        labels = raw.get("id2label")  # as transformers counts them
        counted = len(labels) if isinstance(labels, dict) else raw.get("num_labels", 2)
        self._values["num_labels"] = counted
        for kind in family.attentions:
            for name in (kind.layers, kind.heads, kind.width):
                self._require(name, family.aliases.get(name, name), where)
            for name in (kind.kv_heads, kind.head_dim):
                if self._values.get(name) is not None:
                    self._require(name, family.aliases.get(name, name), where)
        for name, (every, usual, other) in family.alternating.items():
            if self._values.get(name) is None:
                interval = value(self, every) or LARGEST
                layers = range(1, self._values[family.attentions[0].layers] + 1)
                self._values[name] = [usual if layer % interval else other for layer in layers]
        for name, expression in family.derived.items():
            if self._values.get(name) is None:
                self._values[name] = value(self, expression)

    def __getattr__(self, name: str) -> Any:
        """Return the value the configuration gives ``name``."""
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(name) from None

    def _require(self, name: str, key: str, where: str) -> None:
        value = self._values.get(name)
        if type(value) is not int or not 0 < value < LARGEST:
            raise CheckpointError(
                f"The configuration's {key} is no dimension",
                where=where,
                found=f"{key} = {value!r}",
                expected="a positive integer",
                hint="compare the file with the one of the original model",
            )


def value(config: Any, expression: int | str) -> int | None:
    """Return a number that is told by a configuration.

    Args:
        config: Holds the attributes.
        expression: A number, an attribute, or two of these joined by ``*``, ``/`` (that leaves
            nothing over) or ``+``.

    Returns:
        ``None`` where the configuration does not say it, or says what is no number.
    """
    words = str(expression).split()
    if len(words) == 3:
        left, right = value(config, words[0]), value(config, words[2])
        if left is None or right is None:
            return None
        if words[1] == "/":
            return left // right if right and left % right == 0 else None
        return left * right if words[1] == "*" else left + right
    if isinstance(expression, int) or expression.isdigit():
        return int(expression)
    found = getattr(config, expression, None)
    return found if type(found) is int else None
