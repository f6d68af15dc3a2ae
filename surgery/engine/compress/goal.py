"""How much of a model is to go, in the unit in which that was asked: a share, numbers, or bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, floor
from typing import Any

import torch

from surgery.architectures.base import Scope
from surgery.architectures.feed_forward import FeedForwardSite, feed_forward_seam
from surgery.checkpoint.writer import TensorSpec, file_bytes
from surgery.choices.targets import bytes_in, parameters_in
from surgery.engine.compress.options import CompressOptions
from surgery.errors import UsageError
from surgery.stored.stored import Stored, output_dtype

LEAST = 1e-9
"""Share that stands for one that is to be found: a step."""


class TooMuchError(UsageError):
    """More is to be removed than there is.

    Attributes:
        most: Share of the parameters that can go.
    """

    def __init__(self, message: str, most: float, **told: Any) -> None:
        super().__init__(message, **told)
        self.most = most


@dataclass(frozen=True, eq=False)
class Goal:
    """What is asked for, of one checkpoint.

    Attributes:
        whole: The checkpoint.
        stored: The same without the layers that leave.
        options: What is asked for.
    """

    whole: Stored
    stored: Stored
    options: CompressOptions

    @cached_property
    def wanted(self) -> float:
        """How many parameters are to go beside the layers; none or less where these are enough.

        Raises:
            UsageError: The target is no smaller than the model.
        """
        options, left = self.options, parameters_of(self.stored, self.options.of)
        if options.target_parameters is not None:
            target = parameters_in(options.target_parameters)
            self._check_smaller(
                "--target-parameters", target, parameters_of(self.whole), "parameters"
            )
            return float(left - target)
        if options.target_size is not None:
            target = bytes_in(options.target_size)
            self._check_smaller("--target-size", target, self._written(self.whole), "bytes")
            return (self._written(self.stored) - target) / self._itemsize
        share = options.remove
        if share is None:
            share = 0.0 if options.within is None else LEAST
        return share * self.base - (self.base - left)

    @property
    def base(self) -> int:
        """Parameters of what a share is of."""
        return parameters_of(self.whole, self.options.of)

    def too_much(self, most: float) -> TooMuchError:
        """Return the refusal of what cannot go.

        Args:
            most: How many parameters can, beside the layers.
        """
        options, left = self.options, parameters_of(self.stored, self.options.of)
        told = "More is to be removed than the blocks hold"
        if options.target_parameters is not None:
            found, least = f"{parameters_in(options.target_parameters):,}", ceil(left - most)
            of = f"of {self.base:,} parameters"
            flag, expected = "--target-parameters", f"at least {least:,} {of}"
        elif options.target_size is not None:
            found = f"{bytes_in(options.target_size):,} bytes"
            least = ceil(self._written(self.stored) - most * self._itemsize)
            of = f"of {self._written(self.whole):,} bytes"
            flag, expected = "--target-size", f"at least {least:,} {of}"
        else:
            found = f"{options.remove or 0:.1%} of {self.base:,} parameters"
            share = floor(1000 * (self.base - left + most) / self.base) / 1000
            flag, expected = "--remove", f"at most {share:.1%}"
        found_out = (self.base - left + most) / self.base
        return TooMuchError(
            told, found_out, where=flag, found=found, expected=expected, hint=self._wider()
        )

    def _wider(self) -> str:
        """Say what would let more go."""
        options = self.options
        more = {
            "--scope all": options.scope != "all",
            "--multiple 1": options.multiple > 1,
            "--layout ragged": options.layout != "ragged",
            "--seams qk,vo,ffn": options.layout == "ragged" and not options.attention,
            "--seams ffn,layers": not (
                "layers" in options.seams or options.layers or options.drop_layers
            ),
        }
        able = [words for words, open_ in more.items() if open_]
        return f"remove less, or try {', '.join(able)}" if able else "remove less"

    @property
    def _itemsize(self) -> int:
        """Bytes of a parameter that can go: of several dtypes the smallest, to promise no less."""
        names = (name for site in self.stored.blocks for name in site.tensors())
        return min(self._dtype(self.stored, name).itemsize for name in names)

    def _dtype(self, stored: Stored, name: str) -> torch.dtype:
        return output_dtype(stored.source, name, self.options.dtype)

    def _written(self, stored: Stored) -> int:
        """Return the bytes of its safetensors, headers included, in the dtype they are written."""
        infos = stored.source.infos
        return sum(
            file_bytes([TensorSpec(n, self._dtype(stored, n), infos[n].shape) for n in names])
            for names in stored.source.shards.values()
        )

    def _check_smaller(self, flag: str, target: int, has: int, unit: str) -> None:
        if target >= has:
            cast = "" if self.options.dtype is None else f" in {self.options.dtype}"
            raise UsageError(
                "The model is no larger than that, and nothing has to go",
                where=flag,
                found=f"{target:,} {unit}",
                expected=f"less than the {has:,} {unit} of {self.whole.source.name}{cast}",
            )


def counted(stored: Stored, of: str = "model") -> list[str]:
    """Return the tensors of a checkpoint, or with ``ffn`` those of its feed-forward blocks."""
    if of == "model":
        return [*stored.source.infos]
    return [name for site in stored.blocks for name in site.tensors()]


def parameters_of(stored: Stored, of: str = "model") -> int:
    """Return how many parameters these are."""
    return sum(stored.source.infos[name].numel for name in counted(stored, of))


def one_width(sites: Sequence[FeedForwardSite], goal: Goal, *, alone: bool) -> dict[str, int]:
    """Return one width a tower: that with most of its neurons left loses a step next.

    Args:
        sites: The blocks that share the budget.
        goal: How much is to go.
        alone: Nothing else shares it.

    Raises:
        UsageError: So much cannot go.
    """
    options, wanted = goal.options, goal.wanted
    towers: dict[Scope, list[FeedForwardSite]] = {}
    for site in sites:
        towers.setdefault(site.scope, []).append(site)
    full = {scope: max(site.neurons for site in held) for scope, held in towers.items()}
    widths, step, removed = dict(full), options.multiple, 0

    def narrowed() -> dict[str, int]:  # blocks that are narrower already stay so
        return {site.path: min(site.neurons, widths[site.scope]) for site in sites}

    while True:
        able = [scope for scope, width in widths.items() if width > step]
        if not able:
            break
        scope = max(able, key=lambda one: widths[one] / full[one])
        narrower = (widths[scope] - 1) // step * step
        saved = sum(
            (min(site.neurons, widths[scope]) - min(site.neurons, narrower))
            * feed_forward_seam(site).cost
            for site in towers[scope]
        )
        if removed > 0 and wanted - removed < saved / 2:
            return narrowed()
        widths[scope], removed = narrower, removed + saved
    if wanted - removed > 0 and alone:
        raise goal.too_much(removed)
    return narrowed()
