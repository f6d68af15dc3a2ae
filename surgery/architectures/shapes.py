"""Shorthand for the tensors of a module, as a family's data names them."""

from __future__ import annotations

from surgery.architectures.base import Shape


def affine(path: str, out_features: int | str, in_features: int | str) -> dict[str, Shape]:
    """Return weight and bias of a linear map stored ``(out, in)``."""
    return {f"{path}.weight": (out_features, in_features), f"{path}.bias": (out_features,)}


def transposed(path: str, out_features: int | str, in_features: int | str) -> dict[str, Shape]:
    """Return weight and bias of a linear map stored ``(in, out)``."""
    return {f"{path}.weight": (in_features, out_features), f"{path}.bias": (out_features,)}


def norm(path: str, width: str) -> dict[str, Shape]:
    """Return weight and bias of a layer norm."""
    return {f"{path}.weight": (width,), f"{path}.bias": (width,)}
