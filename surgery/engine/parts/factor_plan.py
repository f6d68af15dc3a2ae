"""Plan ``core`` and ``diagonal``: which heads and rows get what, before a weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.architectures import AttentionSite, LinearMap
from surgery.architectures.base import Role
from surgery.checkpoint.source import TensorSource
from surgery.choices.parts import PARTS
from surgery.engine.parts.factor_options import FactorOptions
from surgery.engine.parts.linear_plan import PartsPlan, refuse_treated
from surgery.errors import UsageError
from surgery.methods import Form, block_sizes
from surgery.report.accounting import full_ranks
from surgery.runtime.heads import SiteRanks
from surgery.stored.pack import vectors
from surgery.stored.stored import Stored, read_stored


@dataclass(frozen=True)
class FactorSite:
    """An attention block whose heads are factored.

    Attributes:
        site: The block.
        ranks: Ranks it is stored at.
        qk: Whether keys get something behind them.
        vo: Whether values do.
    """

    site: AttentionSite
    ranks: SiteRanks
    qk: bool
    vo: bool

    @property
    def rotary(self) -> bool:
        """Whether queries stay as they are, since something stands between them and keys."""
        return bool(self.site.between)

    @property
    def treated(self) -> tuple[Role, ...]:
        """Roles that get something behind them, in storage order."""
        roles: tuple[tuple[Role, bool], ...] = (("k", self.qk), ("v", self.vo))
        return tuple(role for role, chosen in roles if chosen)

    @property
    def rewritten(self) -> tuple[Role, ...]:
        """Roles whose weights change."""
        keys: tuple[Role, ...] = ("k",) if self.rotary else ("q", "k")
        return (*(keys if self.qk else ()), *(("v", "o") if self.vo else ()))


@dataclass(frozen=True)
class FactorPlan(PartsPlan):
    """Heads and rows that are factored.

    Attributes:
        form: What is trained.
        sites: Attention blocks, by path.
        rows: Rows of each block of every other map, by path.
        entries: What the runtime must know of each map.
    """

    form: Form
    sites: Mapping[str, FactorSite]
    rows: Mapping[str, list[int]]
    entries: Mapping[str, dict[str, Any]]

    def entry(self, path: str) -> dict[str, Any]:
        """Return what the runtime must know about a map to treat."""
        return self.entries[path]


def make_factor_plan(
    source: TensorSource, options: FactorOptions, asked: str | None = None
) -> FactorPlan:
    """Check a checkpoint, dense or pruned, and choose what to factor.

    Args:
        source: The checkpoint.
        options: What is trained, and where.
        asked: What the user called the source, for commands to copy; default its name.

    Raises:
        CheckpointError: Shapes contradict the configuration, or a map was treated already.
        UsageError: Nothing is in scope.
    """
    stored, asked = read_stored(source), asked or source.name
    options = options.resolve(stored.family)
    sites, pairs = {}, options.pairs or ()
    for site in stored.claims.sites:
        if options.scope in ("all", site.scope):
            ranks = stored.ranks.get(site.path, full_ranks(site))
            vo = "vo" in pairs and any(ranks.vo)  # else there is nothing to stand behind
            sites[site.path] = FactorSite(site, ranks, qk="qk" in pairs, vo=vo)
    if not sites:
        raise UsageError(
            f"A {stored.family.title} model has no {options.scope} attention",
            where="--scope",
            expected=", ".join(dict.fromkeys(s.scope for s in stored.claims.sites)) + ", all",
        )
    rows = {
        path: block_sizes(one.out_features, one.in_features, options.up_block)
        for path, one in stored.maps.items()
        if options.up_block and one.roles == ("up",) and options.scope in ("all", one.scope)
        if one.out_features  # of a block that has lost all of its neurons
    }
    entries: dict[str, dict[str, Any]] = {
        path: {"blocks": sizes, "offset": 0} for path, sizes in rows.items()
    }
    for each in sites.values():
        entries |= _site_entries(each, options)
    rewritten = [_path(each, role) for each in sites.values() for role in each.rewritten]
    refuse_treated(stored, [*rewritten, *rows], asked, "--seams, --scope or --up-block")
    return FactorPlan(
        stored=stored,
        asked=asked,
        method=options.form,
        title=PARTS[options.form].title,
        options=options,
        maps=_maps(stored, entries),
        form=options.form,
        sites=sites,
        rows=rows,
        entries=entries,
    )


def _site_entries(each: FactorSite, options: FactorOptions) -> dict[str, dict[str, Any]]:
    """Return the entries of an attention block's maps; one where q, k and v are fused."""
    found: dict[str, dict[str, Any]] = {}
    for role in each.treated:
        fused = each.site.fused(role)
        before = fused[: fused.index(role)]  # of a map that is one with others
        offset = sum(sum(vectors(each.site, each.ranks, other)) for other in before)
        entry = found.setdefault(_path(each, role), {"blocks": [], "offset": offset})
        entry["blocks"] += [size for size in vectors(each.site, each.ranks, role) if size]
        if options.form == "diagonal":
            shared = 2 if role == "k" and each.rotary else 1
            if entry.setdefault("shared", shared) != shared:
                raise UsageError(
                    "Keys have one singular value a RoPE frequency here, values one a vector, and "
                    "both are in one map",
                    where=_path(each, role),
                    expected="one of the two, or --method core",
                    hint="--seams qk or --seams vo",
                )
    return found


def _path(each: FactorSite, role: Role) -> str:
    return each.site.projection(role).weight.removesuffix(".weight")


def _maps(stored: Stored, entries: Mapping[str, object]) -> tuple[LinearMap, ...]:
    return tuple(one for path, one in stored.maps.items() if path in entries)
