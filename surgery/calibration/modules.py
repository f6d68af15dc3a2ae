"""Where a stock model keeps the projections of an attention block, fused or apart."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from surgery.architectures.base import ROLES, AttentionSite, Role
from surgery.errors import UsageError
from surgery.runtime.spelling import path_in


class AttentionModules:
    """The modules of one attention block.

    Args:
        model: A stock transformers model, dense.
        model: The model.
        site: The block.

    Attributes:
        model: The model.
        site: The block.
        attention: The attention module itself.
        projections: Module of each role; the same one for fused maps.

    Raises:
        UsageError: The model does not have the block, or has it restructured.
    """

    def __init__(self, model: nn.Module, site: AttentionSite) -> None:
        self.site, self.model = site, model
        self.attention = find_module(model, site.path)
        self.projections = {role: self._projection(model, role) for role in ROLES}

    def heads(self, output: Tensor, role: Role) -> Tensor:
        """Return a role's vectors (B, T, heads, d) of its module's output, through a norm if any.

        Norms are given heads before or after positions, or all heads at once, as the family likes.
        """
        flat, name = self.part(output, role), self.site.projection(role).norm
        heads = torch.unflatten(flat, -1, (-1, self.site.head_dim))
        if name is None:
            return heads
        norm = find_module(self.model, name)
        weight = norm.weight
        at_once = isinstance(weight, Tensor) and weight.numel() == flat.shape[-1]
        normed: Tensor = norm(flat).unflatten(-1, heads.shape[-2:]) if at_once else norm(heads)
        return normed

    def part(self, output: Tensor, role: Role) -> Tensor:
        """Return a role's share (..., n) of its module's output."""
        start, size = self._share(role)
        return output.narrow(-1, start, size)

    def with_part(self, output: Tensor, role: Role, part: Tensor) -> Tensor:
        """Return its module's output with a role's share replaced."""
        if self.site.fused(role) == (role,):
            return part
        start, size = self._share(role)
        return torch.cat([output[..., :start], part, output[..., start + size :]], dim=-1)

    def absorbed_bias(self) -> Tensor | None:
        """Return v's bias, (G, d), where o has a bias that can take it."""
        bias = self.projections["v"].bias
        if not isinstance(bias, Tensor) or self.site.o.bias is None:
            return None
        return torch.unflatten(
            self.part(bias.detach(), "v"), -1, (self.site.kv_heads, self.site.head_dim)
        )

    def _share(self, role: Role) -> tuple[int, int]:
        """Where a role's share of its module's outputs begins, and how wide it is."""
        fused = self.site.fused(role)
        before = fused[: fused.index(role)]
        start = sum(self.site.projection(each).out_features for each in before)
        return start, self.site.projection(role).out_features

    def _projection(self, model: nn.Module, role: Role) -> nn.Module:
        stored = self.site.projection(role)
        module = find_module(model, stored.weight.removesuffix(".weight"))
        outputs = sum(self.site.projection(each).out_features for each in self.site.fused(role))
        expected = (outputs, stored.in_features)
        weight = getattr(module, "weight", None)
        found = tuple(weight.shape) if isinstance(weight, Tensor) else None
        if found != (expected[::-1] if stored.transposed else expected):
            raise UsageError(
                "Statistics are taken of an original model, and this one was restructured.",
                where=stored.weight,
                found=f"shape {list(found)}" if found else type(module).__name__,
                expected=f"shape {list(expected)}",
                hint="calibrate the original, or merge the restructured model first",
            )
        return module


def blocks_within(
    model: nn.Module, layer: nn.Module, sites: Iterable[AttentionSite]
) -> list[AttentionSite]:
    """Return the attention blocks that are in a layer."""
    modules = set(layer.modules())
    return [site for site in sites if AttentionModules(model, site).attention in modules]


def find_module(model: nn.Module, path: str) -> nn.Module:
    """Find a module by a checkpoint's path, which may carry the base model's prefix or lack it.

    Raises:
        UsageError: The model has no such module.
    """
    found = path_in(model, path)
    if found is not None:
        return model.get_submodule(found)
    raise UsageError(
        "The model does not have an attention block that statistics are wanted of.",
        where=path,
        found=f"no such module in {type(model).__name__}",
    )
