"""Heads of unequal width: how they are stored side by side, and how kernels get them.

Stored, the heads of a projection lie packed along one axis, each as wide as its rank. Attention
kernels want one width for all the heads they are given, so ragged heads are laid out at one width
with zeros in the rest; uniform heads are only viewed, never padded. Rotary heads are two halves
that belong together column by column: there each half is padded by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT = 128
"""Rows (batch times time) up to which one indexed copy is faster than one a head, on a CPU."""


class Index:
    """Positions along an axis, kept on the device of the data.

    No module buffer: loading on the meta device would leave a buffer empty, and a buffer would
    have to be named in the checkpoint.

    Args:
        positions: Integers, in a list of any depth.
    """

    def __init__(self, positions: Sequence[Any]) -> None:
        self._here = self._there = torch.tensor(positions, dtype=torch.long, device="cpu")

    def on(self, device: torch.device) -> Tensor:
        """Return the positions on a device: copied once, when the data first is there."""
        if device == self._here.device:
            return self._here
        if self._there.device != device:
            self._there = self._here.to(device)
        return self._there


class Packing:
    """Heads of given ranks, packed along one axis, and laid out in groups of one width.

    Notation: B batch, T time; group j has H_j heads of width W_j.

    Args:
        ranks: Width of each head, in storage order.
        parts: How many equal parts a head's columns have, each padded by itself.
        groups: Heads that are laid out together; all of them, where left out.
        widths: Width of each group; its widest head's, where left out.

    Attributes:
        count: Number of heads.
        total: Packed width, the sum of the ranks.
        width: Width of the widest head.
        uniform: Whether all heads have the same width, so that unpacking is a view.
    """

    def __init__(
        self,
        ranks: Sequence[int],
        *,
        parts: int = 1,
        groups: Sequence[Sequence[int]] | None = None,
        widths: Sequence[int] | None = None,
    ) -> None:
        self.ranks = tuple(ranks)
        self.parts = parts
        self.count = len(self.ranks)
        self.total = sum(self.ranks)
        self.width = max(self.ranks)
        self.groups = tuple(map(tuple, groups or [range(self.count)]))
        self.widths = tuple(widths or (max(self.ranks[h] for h in each) for each in self.groups))
        in_order = self.groups == (tuple(range(self.count)),)
        self.uniform = in_order and set(self.ranks) == set(self.widths)
        self._sizes = [len(g) * w for g, w in zip(self.groups, self.widths, strict=True)]
        self._index = Index(self.positions())

    def positions(self) -> list[int]:
        """Return where each packed column lies once the groups stand at their widths."""
        starts, begin = [0] * self.count, 0
        wide = [0] * self.count
        for group, width in zip(self.groups, self.widths, strict=True):
            for slot, head in enumerate(group):
                starts[head], wide[head] = begin + slot * width, width
            begin += len(group) * width
        return [
            starts[head] + part * (wide[head] // self.parts) + column
            for head, rank in enumerate(self.ranks)
            for part in range(self.parts)
            for column in range(rank // self.parts)
        ]

    def unpack(self, packed: Tensor) -> Tensor:
        """Split a packed axis into heads of one width, zeros where a head has fewer columns.

        Args:
            packed: ``(B, T, total)``.

        Returns:
            ``(B, count, T, width)`` of the only group; a view of ``packed`` where the ranks are
            uniform.
        """
        return self.lay_out(packed)[0]

    def lay_out(self, packed: Tensor) -> list[Tensor]:
        """Split a packed axis into groups of heads, zeros where a head has fewer columns.

        Args:
            packed: ``(B, T, total)``.

        Returns:
            ``(B, H_j, T, W_j)`` of each group j.
        """
        batch, time, _ = packed.shape
        if not self.uniform and self._by_head(packed):
            heads = torch.split(packed, list(self.ranks), -1)
            pairs = zip(self.groups, self.widths, strict=True)
            return [torch.stack([self._widen(heads[h], w) for h in g], 1) for g, w in pairs]
        if not self.uniform:
            wide = packed.new_zeros(batch, time, sum(self._sizes))
            packed = wide.index_copy_(-1, self._index.on(packed.device), packed)
        groups = torch.split(packed, self._sizes, -1) if len(self.groups) > 1 else [packed]
        return [
            each.view(batch, time, len(heads), width).transpose(1, 2)
            for each, heads, width in zip(groups, self.groups, self.widths, strict=True)
        ]

    def pack(self, *groups: Tensor) -> Tensor:
        """Lay the heads of all groups side by side again, dropping what is beyond their ranks.

        Args:
            *groups: ``(B, T, H_j, W_j)`` of each group j.

        Returns:
            ``(B, T, total)``, contiguous.
        """
        if not self.uniform and self.parts == 1 and self._by_head(groups[0]):
            heads = {
                head: each[:, :, slot, : self.ranks[head]]
                for each, group in zip(groups, self.groups, strict=True)
                for slot, head in enumerate(group)
            }
            return torch.cat([heads[head] for head in range(self.count)], -1)
        flat = [each.flatten(2) for each in groups]
        wide = flat[0] if len(flat) == 1 else torch.cat(flat, -1)
        # Heads of one column are reshaped without a copy, and so lie as they did.
        return wide.contiguous() if self.uniform else wide[..., self._index.on(wide.device)]

    def _by_head(self, states: Tensor) -> bool:
        # An indexed copy moves single numbers, which a CPU does four times slower than rows; on
        # an accelerator it is one kernel instead of one a head.
        return states.device.type == "cpu" and states.shape[0] * states.shape[1] > SHORT

    def _widen(self, head: Tensor, width: int) -> Tensor:
        missing = (width - head.shape[-1]) // self.parts
        if self.parts == 1:
            return F.pad(head, (0, missing))
        return F.pad(torch.unflatten(head, -1, (self.parts, -1)), (0, missing)).flatten(-2)
