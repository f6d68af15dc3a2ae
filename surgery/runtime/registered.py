"""Small parts of other packages, which run and merge as those of this one do.

Their code is not in this package, so it does not travel: checkpoints that carry them hold no
modelling file, and :func:`surgery.load` needs them registered.
"""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D

from .linears import COUNTERPARTS
from .parts import FLOAT32_PARTS, LINEAR_METHODS, REGISTERED, LinearMethod


def register(
    name: str, method: LinearMethod, counterparts: tuple[type[nn.Linear], type[Conv1D]]
) -> None:
    """Let models carry a small part.

    Args:
        name: The method's name in config.json.
        method: Its names, shapes and merge.
        counterparts: What stands in the place of ``nn.Linear`` and of ``Conv1D``: subclasses of
            :class:`.linears.PartedLinear` and of these.

    Raises:
        ValueError: A method of that name, or a part of one of those names, is there.
    """
    if name in LINEAR_METHODS or not {*FLOAT32_PARTS}.isdisjoint(method.parts):
        raise ValueError(f"{name}, or a part of one of its names, is registered already")
    LINEAR_METHODS[name], COUNTERPARTS[name] = method, counterparts
    REGISTERED.add(name)
    FLOAT32_PARTS.extend(method.parts)


def unregister(name: str) -> None:
    """Take a registered method out again."""
    REGISTERED.remove(name)
    for part in LINEAR_METHODS.pop(name).parts:
        FLOAT32_PARTS.remove(part)
    del COUNTERPARTS[name]
