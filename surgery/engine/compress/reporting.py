"""From a plan and what was fitted to the report that every view is drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import nan, prod

from surgery.architectures.base import Scope
from surgery.architectures.linears import tower_of
from surgery.checkpoint.writer import TensorSpec
from surgery.engine.compress.plan import CompressPlan
from surgery.report.accounting import TensorInfo
from surgery.report.costs import beside_attention, quantities, sequence_lengths
from surgery.report.model.budget import BudgetReport
from surgery.report.model.calibration import Calibration
from surgery.report.model.layers import LayersReport
from surgery.report.model.report import FeedForwardReport, Quantity, Report, Saving, Source
from surgery.runtime.heads import SiteRanks
from surgery.runtime.manifest import COMPRESS
from surgery.stored.stored import Stored, stored_dtype
from surgery.version import versions

RAGGED = (
    "Blocks differ in width, so it loads with surgery.load, or by transformers with "
    "trust_remote_code=True; surgery export --to hf writes a stock checkpoint, with zeros."
)
COUNTED = (
    "What goes of which block, and whether layers leave, real input says, and nothing was run: "
    "only how much goes is known."
)


def build_report(
    plan: CompressPlan,
    fitted: Mapping[str, tuple[float, float]],
    *,
    layers: LayersReport | None,
    budget: BudgetReport | None,
    specs: Mapping[str, Sequence[TensorSpec]],
    attention: Report | None,
    ranks: Mapping[str, SiteRanks],
    calibration: Calibration | None,
    sha256: Mapping[str, str],
    output: str | None,
) -> Report:
    """Assemble the report.

    Args:
        plan: What was asked for.
        fitted: By block the relative error of its output, refitted and not.
        layers: Which layers left, if any was to.
        budget: How the budget was spent, where parts were compared.
        specs: Every tensor of the result, by shard.
        attention: The report of what became of attention, where it shares the budget.
        ranks: What stays of each of its blocks.
        calibration: What was found on real input.
        sha256: Hashes of the source's files.
        output: Where the result is.
    """
    source, stored = plan.whole.source, plan.whole
    before: dict[str, TensorInfo] = {
        name: (info.shape, info.dtype.itemsize) for name, info in source.infos.items()
    }
    after = {one.name: (one.shape, one.dtype.itemsize) for some in specs.values() for one in some}
    heads = [] if attention is None else [_attention(plan, attention.savings[0])]
    unknown = (0.0, 0.0) if plan.sites else (nan, nan)
    known = calibration is not None or not plan.options.compares or not plan.sites
    widths = plan.widths if known else {}
    counted = [*heads, *_savings(plan, before, after)] if known else [_aimed_at(plan)]
    return Report(
        title=f"{source.name}: {_what(plan, heads=attention is not None)}",
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
        sites=[] if attention is None else attention.sites,
        savings=counted,
        quantities=_quantities(plan, before, after, ranks) if known else [],
        notes=_notes(plan, heads=attention is not None, known=known),
        output=output,
        calibration=calibration,
        feed_forward=[
            FeedForwardReport(
                path=site.path,
                scope=site.scope,
                layer=site.layer,
                before=site.neurons,
                kept=widths.get(site.path, site.neurons),
                fitted_error=fitted.get(site.path, unknown)[0],
                deleted_error=fitted.get(site.path, unknown)[1],
            )
            for site in plan.blocks
        ],
        layers=layers,
        budget=budget,
    )


def _what(plan: CompressPlan, *, heads: bool) -> str:
    done = ["fewer layers"] if plan.gone else ["smaller attention"] if heads else []
    if plan.sites or not done:
        done.append("narrower feed-forward blocks")
    return " and ".join(done)


def _aimed_at(plan: CompressPlan) -> Saving:
    """Count what would go of the model, where only that is known."""
    before, left = (
        sum(info.numel for info in each.source.infos.values()) for each in (plan.whole, plan.stored)
    )
    stored = round(left - plan.wanted)
    return Saving("model", "Whole model", before, stored, stored)


def _attention(plan: CompressPlan, saving: Saving) -> Saving:
    """Count attention's parameters before any layer left."""
    names = {name for site in plan.whole.claims.sites for name in site.tensors()}
    before = sum(plan.whole.source.infos[name].numel for name in names)
    return replace(saving, before=before)


def _savings(
    plan: CompressPlan, before: Mapping[str, TensorInfo], after: Mapping[str, TensorInfo]
) -> list[Saving]:
    def saving(name: str, title: str, was: Iterable[str], now: Iterable[str]) -> Saving:
        old = sum(prod(before[each][0]) for each in was)
        new = sum(prod(after[each][0]) for each in now)
        return Saving(name, title, old, new, new)

    whole, short = plan.whole.claims, plan.stored.claims
    blocks = [
        [n for n in each.linears if n in own] for each, own in ((whole, before), (short, after))
    ]
    found = [saving("ffn", "Feed-forward blocks", *blocks)]
    scopes = {site.scope for site in plan.sites} | {layer.scope for layer in plan.gone}
    for tower in whole.towers:
        if tower in scopes:
            both = whole.towers[tower], short.towers[tower]
            found.append(saving(tower, tower.capitalize(), *both))
    return [*found, saving("model", "Whole model", before, after)]


def _quantities(
    plan: CompressPlan,
    before: Mapping[str, TensorInfo],
    after: Mapping[str, TensorInfo],
    ranks: Mapping[str, SiteRanks],
) -> list[Quantity]:
    """Count bytes, and FLOPs of whole towers and of their feed-forward blocks."""
    lengths = sequence_lengths(plan.whole.config)
    (was, old), (now, new) = (
        _counted(*each, lengths) for each in ((plan.whole, before, {}), (plan.stored, after, ranks))
    )
    cached = plan.gone or ranks
    shown = [name for name in was if name == "disk_bytes" or (cached and "kv_bytes" in name)]
    found = [replace(was[name], after=now[name].after) for name in shown]
    scopes = [*(site.scope for site in plan.sites), *(layer.scope for layer in plan.gone)]
    for scope in dict.fromkeys(scopes):
        positions = lengths[scope] if scope == "encoder" else 1
        of = f"{positions:,} positions" if scope == "encoder" else "a token"
        flops = [2 * positions * each.get(scope, 0) for each in (old, new)]
        title = f"{scope.capitalize()} feed-forward, {of}"
        found.append(Quantity(f"flops_ffn_{scope}", title, "FLOPs", *flops))
        whole = f"flops_whole_{scope}"
        if whole in was:
            found.append(replace(was[whole], after=now[whole].after))
    return found


def _counted(
    stored: Stored,
    held: Mapping[str, TensorInfo],
    ranks: Mapping[str, SiteRanks],
    lengths: Mapping[Scope, int],
) -> tuple[dict[str, Quantity], dict[Scope, int]]:
    """Return every quantity by name, and the weights of each tower's feed-forward maps."""
    claims, shapes = stored.claims, {name: shape for name, (shape, _) in held.items()}
    beside = beside_attention(stored.family, claims, shapes)
    every = quantities(claims.sites, ranks, held, held, lengths, beside)
    weights: dict[Scope, int] = {}
    for name in claims.linears:
        if name.endswith(".weight"):
            scope = tower_of(claims, name)
            weights[scope] = weights.get(scope, 0) + prod(shapes[name])
    return {one.name: one for one in every}, weights


def _notes(plan: CompressPlan, *, heads: bool, known: bool) -> list[str]:
    widths = [f"{plan.keys[scope]} = {width}" for scope, width in plan.stock.items()]
    before, after = plan.whole.source.config, plan.source.config
    changed = [
        f"{key} = {value}" if isinstance(value, int) else f"{key} without them"
        for key, value in after.items()
        if before.get(key) != value and key != "surgery"
    ]
    if not plan.sites:
        final = "Nothing merges it back: the layers that left are in no file."
    elif plan.options.refit:
        final = (
            "Nothing merges it back: the maps behind the neurons were fitted to those that stay."
        )
    else:
        final = "Nothing merges it back: the other neurons are gone."
    if not known:
        return [COUNTED, final]
    if heads or plan.told() or plan.stored.neurons:
        return [RAGGED, final]
    said = ", ".join([*changed, *widths])
    stock = (
        f"A stock checkpoint: config.json says {said}, and whatever loads the original loads it."
    )
    return [stock, final]
