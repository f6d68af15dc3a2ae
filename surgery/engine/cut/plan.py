"""Plan: everything that can be known and checked before a weight is read or a byte written."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from surgery.architectures import Architecture, AttentionSite, Claims, Config
from surgery.architectures.seams import ACROSS_ROPE, Seam, seams_of
from surgery.checkpoint.source import TensorSource
from surgery.engine.cut.options import Options
from surgery.errors import CheckpointError, UsageError
from surgery.methods import AttentionWeights, Lossless, prepare
from surgery.runtime.heads import SiteRanks
from surgery.runtime.manifest import FINAL
from surgery.stored.block import Operation, site_entry
from surgery.stored.stored import output_dtype, read_stored

NOT_ASKED = "not asked for (--seams)"


@dataclass(frozen=True, eq=False)
class SitePlan:
    """One attention block in scope.

    Attributes:
        site: The block.
        untouched: Why seams are left as they are, by their names.
    """

    site: AttentionSite
    untouched: Mapping[str, str]

    @property
    def treated(self) -> dict[str, Seam]:
        """The seams that are restructured, by name."""
        seams = seams_of(self.site)
        return {name: seam for name, seam in seams.items() if name not in self.untouched}

    def mixes(self, name: str) -> bool:
        """Whether the vectors of a seam are mixed: it is treated, and nothing forbids that."""
        seam = self.treated.get(name)
        return seam is not None and seam.mixes

    def prepare(self, weights: AttentionWeights) -> AttentionWeights:
        """Remove the bias terms that the treated pairs make redundant, exactly."""
        return prepare(weights, qk=self.mixes("qk"), vo=self.mixes("vo"))


@dataclass(frozen=True)
class Plan:
    """A checked source and what will be done to it.

    ``asked`` is what the user called it, ``before`` what was done to it.
    """

    source: TensorSource
    asked: str
    family: Architecture
    config: Config
    claims: Claims
    options: Options
    sites: tuple[SitePlan, ...]
    before: tuple[Operation, ...] = ()

    def blocks(self) -> dict[str, str]:
        """Return by tensor the path of the block in scope that it is of."""
        return {name: each.site.path for each in self.sites for name in each.site.tensors()}

    def entries(self, ranks: Mapping[str, SiteRanks]) -> dict[str, Any]:
        """Return heads and ranks of every block in scope, as the runtime needs to know them."""
        return {each.site.path: site_entry(each.site, ranks[each.site.path]) for each in self.sites}

    def output_dtype(self, name: str) -> torch.dtype:
        """Return the dtype tensor ``name`` is written in."""
        return output_dtype(self.source, name, self.options.dtype)


def make_plan(source: TensorSource, options: Options, asked: str | None = None) -> Plan:
    """Check a dense checkpoint against its configuration, and choose the blocks to treat.

    Args:
        source: The checkpoint.
        options: Where to cut and how.
        asked: What the user called the source, for commands to copy; default its name.

    Raises:
        CheckpointError: Shapes contradict the configuration, or it is restructured already.
        UsageError: Nothing in the checkpoint is in scope.
    """
    asked = asked or source.name
    stored = read_stored(source)
    if any(operation["method"] not in FINAL for operation in stored.operations):
        raise CheckpointError(
            "This checkpoint has been restructured already",
            where=source.name,
            hint="operate on the original, or merge this one back first: "
            + shlex.join(["surgery", "merge", asked]),
        )
    family, claims = stored.family, stored.claims
    options = options.resolve(family)
    sites = tuple(
        SitePlan(site, _untouched(site, options))
        for site in claims.sites
        if options.scope in ("all", site.scope)
    )
    if not sites:
        raise UsageError(
            f"A {family.title} model has no {options.scope} attention",
            where="--scope",
            expected=", ".join(dict.fromkeys(site.scope for site in claims.sites)) + ", all",
        )
    if not any(plan.treated for plan in sites):
        reasons = {name: why for name, why in sites[0].untouched.items() if why != NOT_ASKED}
        open_ = [name for name, why in sites[0].untouched.items() if why == NOT_ASKED]
        told = "; ".join(f"{name} is left exact here: {why}" for name, why in reasons.items())
        raise UsageError(
            "Nothing can be restructured with these options",
            where="--seams",
            found=", ".join(options.pairs or ()),
            expected=f"{', '.join(open_)}, since {told}" if open_ else told,
        )
    return Plan(source, asked, family, stored.config, claims, options, sites, stored.operations)


def _by_frequency(options: Options) -> bool:
    """Whether queries and keys across RoPE may lose whole frequencies."""
    return options.calibrate is not None and not isinstance(options.rule, Lossless)


def _untouched(site: AttentionSite, options: Options) -> dict[str, str]:
    """Return by seam why it is left as it is: closed, across RoPE without input, or not asked."""
    found = {}
    for name, seam in seams_of(site).items():
        if seam.why_not is not None:
            found[name] = seam.why_not
        elif not seam.mixes and not _by_frequency(options):
            found[name] = ACROSS_ROPE
        elif name not in (options.pairs or ()):
            found[name] = NOT_ASKED
    return found
