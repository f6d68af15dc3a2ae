"""Plan: everything that can be known and checked before a weight is read or a byte written."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import torch

from surgery.architectures import Architecture, AttentionSite, Claims, Config
from surgery.checkpoint.source import TensorSource
from surgery.engine.cut.options import Options
from surgery.errors import CheckpointError, UsageError
from surgery.methods import AttentionWeights, Lossless, prepare
from surgery.stored.stored import output_dtype, read_stored

ROPE = (
    "RoPE turns q and k by their positions between the two maps, so their product cannot be "
    "absorbed; whole frequencies can go by what they are worth on real input (--calibrate)"
)
NOT_ASKED = "not asked for (--pairs)"


@dataclass(frozen=True)
class SitePlan:
    """One attention block in scope: which pairs are restructured, and why the others not."""

    site: AttentionSite
    qk_untouched: str | None
    vo_untouched: str | None

    @property
    def qk(self) -> bool:
        """Whether the query-key pair is restructured."""
        return self.qk_untouched is None

    @property
    def vo(self) -> bool:
        """Whether the value-output pair is restructured."""
        return self.vo_untouched is None

    @property
    def rotary(self) -> bool:
        """Whether queries and keys can only lose whole RoPE frequencies, unmixed."""
        return "rope" in self.site.between

    def prepare(self, weights: AttentionWeights) -> AttentionWeights:
        """Remove the bias terms that the treated pairs make redundant, exactly."""
        return prepare(weights, qk=self.qk and not self.rotary, vo=self.vo)


@dataclass(frozen=True)
class Plan:
    """A checked source and what will be done to it; ``asked`` is what the user called it."""

    source: TensorSource
    asked: str
    family: Architecture
    config: Config
    claims: Claims
    options: Options
    sites: tuple[SitePlan, ...]

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
    if "surgery" in source.config:
        raise CheckpointError(
            "This checkpoint has been restructured already",
            where=source.name,
            hint="operate on the original, or merge this one back first: "
            + shlex.join(["surgery", "merge", asked]),
        )
    stored = read_stored(source)
    family, claims = stored.family, stored.claims
    options = options.resolve(family)
    sites = tuple(
        SitePlan(site, _why_not("qk", site, options), _why_not("vo", site, options))
        for site in claims.sites
        if options.scope in ("all", site.scope)
    )
    if not sites:
        raise UsageError(
            f"A {family.title} model has no {options.scope} attention",
            where="--scope",
            expected=", ".join(dict.fromkeys(site.scope for site in claims.sites)) + ", all",
        )
    if not any(plan.qk or plan.vo for plan in sites):
        raise UsageError(
            "Nothing can be restructured with these options",
            where="--pairs",
            found=", ".join(options.pairs or ()),
            expected=f"vo, since qk is left exact here: {sites[0].qk_untouched}",
        )
    return Plan(source, asked, family, stored.config, claims, options, sites)


def _by_frequency(options: Options) -> bool:
    """Whether queries and keys across RoPE may lose whole frequencies."""
    return options.calibrate is not None and not isinstance(options.rule, Lossless)


def _why_not(pair: str, site: AttentionSite, options: Options) -> str | None:
    if pair in site.closed:
        return site.closed[pair]
    if pair == "qk" and "rope" in site.between and not _by_frequency(options):
        return ROPE
    if pair not in (options.pairs or ()):
        return NOT_ASKED
    return None
