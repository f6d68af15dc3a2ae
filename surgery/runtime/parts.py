"""The small trainable parts that a linear map can carry: their names, shapes and meaning.

A *linear* is one stored weight W, here always as ``(out, in)``. Its method leaves ``weight`` and
``bias`` under their names and stores its parts, always float32, beside them. All start out so
that the map is the original one, to the rounding of the weight.

| method   | y for a row x                               | parts: (shape)                     |
|----------|---------------------------------------------|------------------------------------|
| sorsa    | ``x Wᵀ + scale·((x V)·S) Uᵀ + b``           | sorsa_u (out,r), sorsa_s (r),      |
|          |                                             | sorsa_vt (r,in)                    |
| pissa    | ``x Wᵀ + scale·(x Aᵀ) Bᵀ + b``              | pissa_a (r,in), pissa_b (out,r)    |
| hra      | ``x (W H)ᵀ + b``, H Householder reflections | hra_u (in,r)                       |
| goft     | ``x (W Rᵀ)ᵀ + b``, R Givens rotations       | goft_angles (in−1)                 |
| qgoft    | the same, free 2×2 blocks                   | qgoft_blocks (in−1,2,2)            |
| core     | ``(x Wᵀ + b) Cᵀ``, C square blocks          | core_blocks (Σ r²)                 |
| diagonal | ``(x Wᵀ + b) Cᵀ``, C diagonal               | singular_values (Σ r / shared)     |

The last two stand behind the map, bias included, on some of its outputs: merging changes the bias
too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .blocks import mix_rows, scale_rows
from .errors import LoadError
from .givens import mix_weight, rotate_weight
from .householder import reflect_weight

Entry = Mapping[str, Any]
Parts = Mapping[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class LinearMethod:
    """One way to give a linear map small trainable parts.

    Attributes:
        parts: Names of the parts.
        counts: Keys of a site's entry that hold positive integers.
        numbers: Keys of a site's entry that hold finite numbers.
        shapes: Shapes of the parts, from the entry, ``out`` and ``in``.
        merge: The plain weight ``(out, in)``, from the entry, the stored weight and the parts in
            the same dtype.
        by_output: Those of the parts that have one row an output of the map.
        behind: Whether the parts act on the map's outputs, its bias included. Then ``merge`` takes
            any number of columns, and the bias is one.
        sizes: Keys of a site's entry that hold a list of positive integers.
        places: Keys of a site's entry that hold an integer from zero.
        blank: The parts that change nothing, where they are not zeros.
    """

    parts: tuple[str, ...]
    counts: tuple[str, ...]
    numbers: tuple[str, ...]
    shapes: Callable[[Entry, int, int], Shapes]
    merge: Callable[[Entry, Tensor, Parts], Tensor]
    by_output: tuple[str, ...] = ()
    behind: bool = False
    sizes: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    blank: Callable[[Entry, tuple[int, ...]], Tensor] = lambda _, shape: torch.zeros(shape)

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key of a site's entry."""
        return (*self.counts, *self.numbers, *self.sizes, *self.places)


LINEAR_METHODS: dict[str, LinearMethod] = {
    "sorsa": LinearMethod(
        parts=("sorsa_u", "sorsa_s", "sorsa_vt"),
        counts=("rank",),
        numbers=("scale",),
        shapes=lambda entry, out, into: {
            "sorsa_u": (out, entry["rank"]),
            "sorsa_s": (entry["rank"],),
            "sorsa_vt": (entry["rank"], into),
        },
        merge=lambda entry, weight, parts: torch.addmm(
            weight, parts["sorsa_u"] * parts["sorsa_s"], parts["sorsa_vt"], alpha=entry["scale"]
        ),
        by_output=("sorsa_u",),
    ),
    "pissa": LinearMethod(
        parts=("pissa_a", "pissa_b"),
        counts=("rank",),
        numbers=("scale",),
        shapes=lambda entry, out, into: {
            "pissa_a": (entry["rank"], into),
            "pissa_b": (out, entry["rank"]),
        },
        merge=lambda entry, weight, parts: torch.addmm(
            weight, parts["pissa_b"], parts["pissa_a"], alpha=entry["scale"]
        ),
        by_output=("pissa_b",),
    ),
    "hra": LinearMethod(
        parts=("hra_u",),
        counts=("reflections",),
        numbers=(),
        shapes=lambda entry, _, into: {"hra_u": (into, entry["reflections"])},
        merge=lambda _, weight, parts: reflect_weight(weight, parts["hra_u"]),
    ),
    "goft": LinearMethod(
        parts=("goft_angles",),
        counts=(),
        numbers=(),
        shapes=lambda _, __, into: {"goft_angles": (into - 1,)},
        merge=lambda _, weight, parts: rotate_weight(weight, parts["goft_angles"]),
    ),
    "qgoft": LinearMethod(
        parts=("qgoft_blocks",),
        counts=(),
        numbers=(),
        shapes=lambda _, __, into: {"qgoft_blocks": (into - 1, 2, 2)},
        merge=lambda _, weight, parts: mix_weight(weight, parts["qgoft_blocks"]),
        blank=lambda _, shape: torch.eye(2).repeat(shape[0], 1, 1),
    ),
    "core": LinearMethod(
        parts=("core_blocks",),
        counts=(),
        numbers=(),
        sizes=("blocks",),
        places=("offset",),
        shapes=lambda entry, _, __: {"core_blocks": (sum(r * r for r in entry["blocks"]),)},
        merge=lambda entry, weight, parts: mix_rows(
            weight, parts["core_blocks"], entry["blocks"], entry["offset"]
        ),
        behind=True,
        blank=lambda entry, _: torch.cat([torch.eye(r).flatten() for r in entry["blocks"]]),
    ),
    "diagonal": LinearMethod(
        parts=("singular_values",),
        counts=("shared",),
        numbers=(),
        sizes=("blocks",),
        places=("offset",),
        shapes=lambda entry, _, __: {
            "singular_values": (sum(r // entry["shared"] for r in entry["blocks"]),)
        },
        merge=lambda entry, weight, parts: scale_rows(
            weight, parts["singular_values"], entry["blocks"], entry["offset"], entry["shared"]
        ),
        behind=True,
        blank=lambda _, shape: torch.ones(shape),
    ),
}
"""Every method, under the name it has in config.json."""

FLOAT32_PARTS = [name for method in LINEAR_METHODS.values() for name in method.parts]
"""Names of all parts: parameters that stay float32 whatever dtype the model is loaded in."""

REGISTERED: set[str] = set()
"""Those of the methods that are not this package's own: see :mod:`.registered`."""


def linear_method(method: object, where: str = "method") -> LinearMethod:
    """Return the method of that name.

    Raises:
        LoadError: If there is none.
    """
    if isinstance(method, str) and method in LINEAR_METHODS:
        return LINEAR_METHODS[method]
    raise LoadError(
        "There is no such method for linear maps.",
        where=where,
        found=repr(method),
        expected="one of: " + ", ".join(LINEAR_METHODS),
        hint="upgrade model-surgery",
    )


def part_shapes(method: str, entry: Entry, out_features: int, in_features: int) -> Shapes:
    """Return the shape of every part of a linear map, by name.

    Args:
        method: One of :data:`LINEAR_METHODS`.
        entry: Its entry, as :func:`.entries.read_entry` gives it.
        out_features: Rows of the weight as ``(out, in)``.
        in_features: Columns.

    Raises:
        LoadError: If the weight is too small for so many orthonormal vectors or such blocks, or
            blocks cannot share their values.
    """
    if "blocks" in entry:
        _check_blocks(entry, out_features)
    widest = min(out_features, in_features)
    # PiSSA's factors need not be independent: a LoRA that was imported may have any rank.
    if method == "sorsa" and entry["rank"] > widest:
        raise LoadError(
            "There are no so many orthonormal vectors on both sides of a weight.",
            found=f"rank {entry['rank']}",
            expected=f"at most {widest} for a weight of {out_features} × {in_features}",
        )
    return linear_method(method).shapes(entry, out_features, in_features)


def merged_weight(method: str, entry: Entry, weight: Tensor, parts: Parts) -> Tensor:
    """Return the plain weight that computes the same as the stored one with its parts.

    Args:
        method: One of :data:`LINEAR_METHODS`.
        entry: Its entry, as :func:`.entries.read_entry` gives it.
        weight: Stored weight as ``(out, in)``. The result is computed and returned in its dtype:
            pass float64 (or float32) and cast once, at the end.
        parts: The parts by name, of any floating dtype.

    Returns:
        ``(out, in)``, a new tensor.

    Raises:
        LoadError: If a part is missing or has another shape than the entry says.
    """
    return _merge(method, entry, weight, parts)


def merged_bias(method: str, entry: Entry, bias: Tensor, parts: Parts) -> Tensor:
    """Return the plain bias ``(out,)`` of the map, as :func:`merged_weight` does the weight.

    Only parts behind the map change it: ``C (W x + b) = (C W) x + C b``.

    Raises:
        LoadError: As above.
    """
    if not linear_method(method).behind:
        return bias
    return _merge(method, entry, bias[:, None], parts).squeeze(1)


def _merge(method: str, entry: Entry, weight: Tensor, parts: Parts) -> Tensor:
    shapes = part_shapes(method, entry, *weight.shape)
    for name, shape in shapes.items():
        found = tuple(parts[name].shape) if name in parts else None
        if found != shape:
            raise LoadError(
                "A part of a linear map does not fit its weight.",
                where=name,
                found="no such part" if found is None else found,
                expected=shape,
            )
    same = {name: parts[name].to(weight.device, weight.dtype) for name in shapes}
    return linear_method(method).merge(entry, weight, same)


def _check_blocks(entry: Entry, out_features: int) -> None:
    """Require blocks that lie within the map's outputs and have whole numbers of values.

    Raises:
        LoadError: They do not.
    """
    blocks, offset, shared = entry["blocks"], entry["offset"], entry.get("shared", 1)
    if offset + sum(blocks) > out_features:
        raise LoadError(
            "The blocks behind a linear map reach beyond its outputs.",
            found=f"{sum(blocks)} rows from row {offset} on",
            expected=f"at most {out_features} rows in all",
        )
    odd = [size for size in blocks if size % shared]
    if odd:
        raise LoadError(
            "The rows of a block cannot share their values evenly.",
            found=f"a block of {odd[0]} rows",
            expected=f"multiples of {shared}",
        )
