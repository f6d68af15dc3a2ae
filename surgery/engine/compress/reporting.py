"""From a plan and what was fitted to the report that every view is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from surgery.architectures.base import Scope
from surgery.architectures.feed_forward import FeedForwardSite
from surgery.engine.compress.plan import CompressPlan
from surgery.report.accounting import TensorInfo
from surgery.report.costs import beside_attention, quantities, sequence_lengths
from surgery.report.model.calibration import Calibration
from surgery.report.model.report import FeedForwardReport, Quantity, Report, Saving, Source
from surgery.runtime.manifest import COMPRESS
from surgery.stored.stored import stored_dtype
from surgery.version import versions


def build_report(
    plan: CompressPlan,
    fitted: Mapping[str, tuple[float, float]],
    *,
    calibration: Calibration | None,
    sha256: Mapping[str, str],
    output: str | None,
) -> Report:
    """Assemble the report.

    Args:
        plan: What was asked for.
        fitted: By block the relative error of its output, refitted and not.
        calibration: What was found on real input.
        sha256: Hashes of the source's files.
        output: Where the result is.
    """
    source, stored = plan.source, plan.stored
    before: dict[str, TensorInfo] = {
        name: (info.shape, info.dtype.itemsize) for name, info in source.infos.items()
    }
    after = {name: (shape, plan.dtype(name).itemsize) for name, shape in plan.shapes().items()}
    return Report(
        title=f"{source.name}: narrower feed-forward blocks",
        method=COMPRESS,
        options=plan.options.plain(),
        preset=None,
        source=Source(
            name=source.name,
            path=source.name,
            model_type=stored.family.model_type,
            sha256=dict(sha256),
            dtype=stored_dtype(source),
        ),
        versions=versions(),
        sites=[],
        savings=_savings(plan, before, after),
        quantities=_quantities(plan, before, after),
        notes=_notes(plan),
        output=output,
        command=plan.options.command(plan.asked, output, as_typed=True),
        calibration=calibration,
        feed_forward=[
            FeedForwardReport(
                path=site.path,
                scope=site.scope,
                layer=site.layer,
                before=site.neurons,
                kept=plan.widths[site.scope],
                fitted_error=fitted.get(site.path, (0.0, 0.0))[0],
                deleted_error=fitted.get(site.path, (0.0, 0.0))[1],
            )
            for site in plan.sites
        ],
    )


def _savings(
    plan: CompressPlan, before: Mapping[str, TensorInfo], after: Mapping[str, TensorInfo]
) -> list[Saving]:
    def saving(name: str, title: str, names: list[str]) -> Saving:
        was = sum(prod(before[each][0]) for each in names)
        now = sum(prod(after[each][0]) for each in names)
        return Saving(name, title, was, now, now)

    blocks = [name for site in plan.sites for name in site.tensors()]
    found = [saving("ffn", "Feed-forward blocks", blocks)]
    for tower, names in plan.stored.claims.towers.items():
        if not set(names).isdisjoint(blocks):
            found.append(saving(tower, tower.capitalize(), list(names)))
    return [*found, saving("model", "Whole model", list(before))]


def _quantities(
    plan: CompressPlan, before: Mapping[str, TensorInfo], after: Mapping[str, TensorInfo]
) -> list[Quantity]:
    """Count bytes, and FLOPs of whole towers and of their feed-forward blocks."""
    stored, lengths = plan.stored, sequence_lengths(plan.stored.config)
    claims, family = stored.claims, stored.family
    shapes = [{name: shape for name, (shape, _) in one.items()} for one in (before, after)]
    beside = [beside_attention(family, claims, one) for one in shapes]
    was, now = (
        {one.name: one for one in quantities(claims.sites, {}, before, after, lengths, each)}
        for each in beside
    )
    found = [was["disk_bytes"]]
    for scope in dict.fromkeys(site.scope for site in plan.sites):
        positions = lengths[scope] if scope == "encoder" else 1
        of = f"{positions:,} positions" if scope == "encoder" else "a token"
        flops = [2 * positions * _multiplied(plan, scope, one) for one in shapes]
        title = f"{scope.capitalize()} feed-forward, {of}"
        found.append(Quantity(f"flops_ffn_{scope}", title, "FLOPs", *flops))
        whole = f"flops_whole_{scope}"
        if whole in was:
            old, new = was[whole], now[whole]
            found.append(Quantity(whole, old.title, "FLOPs", old.before, new.before))
    return found


def _multiplied(plan: CompressPlan, scope: Scope, shapes: Mapping[str, tuple[int, ...]]) -> int:
    def of(site: FeedForwardSite) -> int:
        return sum(prod(shapes[each.weight]) for each in site.projections().values())

    return sum(of(site) for site in plan.sites if site.scope == scope)


def _notes(plan: CompressPlan) -> list[str]:
    widths = ", ".join(f"{plan.keys[scope]} = {width}" for scope, width in plan.widths.items())
    return [
        f"A stock checkpoint: config.json says {widths}, and whatever loads the original loads it.",
        "Nothing merges it back: the maps behind the neurons were fitted to those that stay."
        if plan.options.refit
        else "Nothing merges it back: the other neurons are gone.",
    ]
