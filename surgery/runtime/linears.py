"""Linear maps that carry small trainable parts: ``nn.Linear`` and transformers' ``Conv1D``.

One pair of classes a method: a mixin in front of the stock class. All are names of this module,
so that models pickle and copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .blocks import mix_outputs, scale_outputs
from .entries import read_entry
from .errors import LoadError
from .givens import mix, rotate
from .householder import reflect
from .lowrank import add_lowrank
from .parts import (
    LINEAR_METHODS,
    linear_method,
    merged_bias,
    merged_weight,
    part_shapes,
)
from .penalties import block_orthogonality_penalty, orthonormality_penalty


class PartedLinear:
    """Behaviour of a linear map with parts, in front of the stock class.

    Attributes:
        method: Name of the method.
        entry: What config.json says of this map.
    """

    method: str
    entry: dict[str, Any]

    def parts(self) -> dict[str, nn.Parameter]:
        """Return the trainable parts by name."""
        return {name: getattr(self, name) for name in LINEAR_METHODS[self.method].parts}

    def penalty(self) -> Tensor | None:
        """Return what the method's paper adds to the loss, a scalar; None where it adds nothing."""
        return None

    @torch.no_grad()
    def merged(self) -> Tensor:
        """Return the plain weight in float64, in the orientation of ``weight``."""
        stored: Tensor = cast(Any, self).weight.double()
        turned = isinstance(self, Conv1D)
        weight = stored.T if turned else stored
        merged = merged_weight(self.method, self.entry, weight, self.parts())
        return merged.T.contiguous() if turned else merged

    @torch.no_grad()
    def merged_bias(self) -> Tensor | None:
        """Return the plain bias ``(out,)`` in float64; None where the map has none."""
        bias: Tensor | None = cast(Any, self).bias
        if bias is None:
            return None
        return merged_bias(self.method, self.entry, bias.double(), self.parts())


class Sorsa(PartedLinear):
    """``y = x Wᵀ + scale·((x V)·S) Uᵀ + b`` (arXiv 2409.00055)."""

    sorsa_u: nn.Parameter
    sorsa_s: nn.Parameter
    sorsa_vt: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """Map activations ``(..., in)`` to ``(..., out)``."""
        base = super().forward(x)  # type: ignore[misc]  # of the stock class
        scale = self.entry["scale"]
        return add_lowrank(base, x, self.sorsa_vt, self.sorsa_u, scale, self.sorsa_s)

    def penalty(self) -> Tensor:
        """Return the mean of ``‖UᵀU − I‖_F`` and ``‖VᵀV − I‖_F``.

        SORSA's regulariser is the mean over all U and V of a model: the mean of this over its maps.
        """
        u = orthonormality_penalty(self.sorsa_u, squared=False)
        return (u + orthonormality_penalty(self.sorsa_vt.T, squared=False)) / 2


class Pissa(PartedLinear):
    """``y = x Wᵀ + scale·(x Aᵀ) Bᵀ + b`` (arXiv 2404.02948)."""

    pissa_a: nn.Parameter
    pissa_b: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """Map activations ``(..., in)`` to ``(..., out)``."""
        base = super().forward(x)  # type: ignore[misc]  # of the stock class
        return add_lowrank(base, x, self.pissa_a, self.pissa_b, self.entry["scale"])


class Hra(PartedLinear):
    """``y = (x Hᵀ) Wᵀ + b``, H a product of Householder reflections (arXiv 2405.17484)."""

    hra_u: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """Map activations ``(..., in)`` to ``(..., out)``."""
        return cast(Tensor, super().forward(reflect(x, self.hra_u)))  # type: ignore[misc]

    def penalty(self, *, squared: bool = True) -> Tensor:
        """Return ``‖I − uᵀu‖_F²`` as in the paper, or the norm as in its published code."""
        return orthonormality_penalty(self.hra_u, squared=squared)


class Goft(PartedLinear):
    """``y = (x R) Wᵀ + b``, R a tree of Givens rotations (arXiv 2404.04316)."""

    goft_angles: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """Map activations ``(..., in)`` to ``(..., out)``."""
        return cast(Tensor, super().forward(rotate(x, self.goft_angles)))  # type: ignore[misc]


class Qgoft(PartedLinear):
    """``y = (x R) Wᵀ + b``, R a tree of free 2×2 blocks (arXiv 2404.04316)."""

    qgoft_blocks: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """Map activations ``(..., in)`` to ``(..., out)``."""
        return cast(Tensor, super().forward(mix(x, self.qgoft_blocks)))  # type: ignore[misc]

    def penalty(self) -> Tensor:
        """Return the soft orthogonality ``Σ ⟨α, β⟩²`` of the blocks' columns."""
        return block_orthogonality_penalty(self.qgoft_blocks)


class Core(PartedLinear):
    """``y = C (W x + b)``, C free square blocks, one a head (CLOVER, arXiv 2411.17426)."""

    core_blocks: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """Map activations ``(..., in)`` to ``(..., out)``."""
        y = super().forward(x)  # type: ignore[misc]  # of the stock class
        return mix_outputs(y, self.core_blocks, self.entry["blocks"], self.entry["offset"])


class Diagonal(PartedLinear):
    """``y = C (W x + b)``, C diagonal: singular values alone (CLOVER, arXiv 2411.17426)."""

    singular_values: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """Map activations ``(..., in)`` to ``(..., out)``."""
        y = super().forward(x)  # type: ignore[misc]  # of the stock class
        blocks, offset, shared = (self.entry[key] for key in ("blocks", "offset", "shared"))
        return scale_outputs(y, self.singular_values, blocks, offset, shared)


class SorsaLinear(Sorsa, nn.Linear):
    """``nn.Linear`` with SORSA's parts."""


class SorsaConv1D(Sorsa, Conv1D):
    """``Conv1D`` with SORSA's parts."""


class PissaLinear(Pissa, nn.Linear):
    """``nn.Linear`` with PiSSA's parts."""


class PissaConv1D(Pissa, Conv1D):
    """``Conv1D`` with PiSSA's parts."""


class HraLinear(Hra, nn.Linear):
    """``nn.Linear`` behind reflections."""


class HraConv1D(Hra, Conv1D):
    """``Conv1D`` behind reflections."""


class GoftLinear(Goft, nn.Linear):
    """``nn.Linear`` behind rotations."""


class GoftConv1D(Goft, Conv1D):
    """``Conv1D`` behind rotations."""


class QgoftLinear(Qgoft, nn.Linear):
    """``nn.Linear`` behind free 2×2 blocks."""


class QgoftConv1D(Qgoft, Conv1D):
    """``Conv1D`` behind free 2×2 blocks."""


class CoreLinear(Core, nn.Linear):
    """``nn.Linear`` in front of square blocks."""


class CoreConv1D(Core, Conv1D):
    """``Conv1D`` in front of square blocks."""


class DiagonalLinear(Diagonal, nn.Linear):
    """``nn.Linear`` in front of a diagonal."""


class DiagonalConv1D(Diagonal, Conv1D):
    """``Conv1D`` in front of a diagonal."""


COUNTERPARTS: dict[str, tuple[type[nn.Linear], type[Conv1D]]] = {
    "sorsa": (SorsaLinear, SorsaConv1D),
    "pissa": (PissaLinear, PissaConv1D),
    "hra": (HraLinear, HraConv1D),
    "goft": (GoftLinear, GoftConv1D),
    "qgoft": (QgoftLinear, QgoftConv1D),
    "core": (CoreLinear, CoreConv1D),
    "diagonal": (DiagonalLinear, DiagonalConv1D),
}
"""For each method, the counterparts of ``nn.Linear`` and of ``Conv1D``."""


def swap_linear(model: nn.Module, path: str, method: str, entry: Mapping[str, Any]) -> None:
    """Give the linear map at ``path`` the parts of a method, in place.

    Its weight, bias, hooks and identity stay. The parts are float32 parameters on the weight's
    device (meta too) that change nothing until they are loaded: zeros, ones or identity blocks.

    Args:
        model: The model that holds the map.
        path: Where; exactly an ``nn.Linear`` or a ``Conv1D``.
        method: One of :data:`.parts.LINEAR_METHODS`.
        entry: What config.json says of the site.

    Raises:
        LoadError: If another kind of module is there, or the entry does not fit it.
    """
    linear_method(method, path)
    entry = read_entry(path, method, entry)
    module = model.get_submodule(path)
    kinds = (nn.Linear, Conv1D)
    if type(module) not in kinds or "forward" in vars(module):
        raise LoadError(
            "Only a plain linear map can be given trainable parts.",
            where=path,
            found=type(module).__name__
            + (" whose forward was replaced" if "forward" in vars(module) else ""),
            expected=" or ".join(kind.__name__ for kind in kinds),
        )
    linear: Any = module
    transposed = type(module) is Conv1D
    out_features, in_features = linear.weight.shape[::-1] if transposed else linear.weight.shape
    try:
        shapes = part_shapes(method, entry, out_features, in_features)
    except LoadError as error:
        raise LoadError(
            error.message, where=path, found=error.found, expected=error.expected
        ) from None
    # The class of the very module is changed, not a new module put in its place: whoever holds
    # it (a tied weight, a hook, an optimiser, a parent that keeps a second name) stays right.
    linear.__class__ = COUNTERPARTS[method][transposed]
    linear.method, linear.entry = method, entry
    for name, shape in shapes.items():
        blank = LINEAR_METHODS[method].blank(entry, shape)
        linear.register_parameter(name, nn.Parameter(blank.to(linear.weight.device, torch.float32)))
