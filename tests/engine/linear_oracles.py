"""What a linear map with a small part computes, by dense matrices and plain loops in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def dense_weight(
    method: str, entry: Mapping[str, Any], weight: Tensor, parts: Mapping[str, Tensor]
) -> Tensor:
    """Return the ``(out, in)`` weight that a stored weight and its small part stand for."""
    weight = weight.double()
    parts = {name: part.double() for name, part in parts.items()}
    if method == "sorsa":
        principal = parts["sorsa_u"] @ torch.diag(parts["sorsa_s"]) @ parts["sorsa_vt"]
        return weight + entry["scale"] * principal
    if method == "pissa":
        return weight + entry["scale"] * parts["pissa_b"] @ parts["pissa_a"]
    if method == "hra":
        return weight @ householder_product(parts["hra_u"])
    blocks = parts.get("qgoft_blocks")
    if blocks is None:
        cosine, sine = parts["goft_angles"].cos(), parts["goft_angles"].sin()
        blocks = torch.stack([cosine, -sine, sine, cosine], dim=-1).reshape(-1, 2, 2)
    return weight @ givens_product(blocks, weight.shape[1]).T


def householder_product(u: Tensor) -> Tensor:
    """``H_1 H_2 … H_r`` with ``H_i = I − 2 u_i u_iᵀ / ‖u_i‖²``."""
    product = torch.eye(len(u), dtype=torch.float64)
    for column in u.double().T:
        product = product @ (
            torch.eye(len(u), dtype=torch.float64)
            - 2 * torch.outer(column, column) / column.dot(column)
        )
    return product


def givens_pairs(d: int) -> list[list[tuple[int, int]]]:
    """Pairs of every stage: neighbours among the elements still active."""
    stages, active = [], list(range(d))
    while len(active) > 1:
        pairs = [(active[k], active[k + 1]) for k in range(0, len(active) - 1, 2)]
        stages.append(pairs)
        active = active[::2]
    return stages


def givens_product(blocks: Tensor, d: int) -> Tensor:
    """``R = P_L … P_1`` from 2×2 blocks in stage order."""
    product = torch.eye(d, dtype=torch.float64)
    remaining = list(blocks)
    for pairs in givens_pairs(d):
        stage = torch.eye(d, dtype=torch.float64)
        for i, j in pairs:
            block = remaining.pop(0)
            stage[i, i], stage[i, j] = block[0, 0], block[0, 1]
            stage[j, i], stage[j, j] = block[1, 0], block[1, 1]
        product = stage @ product
    assert not remaining
    return product
