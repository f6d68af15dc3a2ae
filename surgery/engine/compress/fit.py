"""Fit every block to the neurons that stay, layer by layer, and keep each as it is done."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import sqrt

import torch
from torch import Tensor

from surgery.architectures.feed_forward import FeedForwardSite
from surgery.calibration.feed_forward import STAGE, neuron_moments
from surgery.calibration.towers import Hearing, towers_of
from surgery.calibration.without_layers import without_layers
from surgery.checkpoint.transaction import Transaction
from surgery.choices.common import PADDING_WEIGHT
from surgery.engine.compress.attention import AttentionPart
from surgery.engine.compress.in_place import as_it_was, narrow_block
from surgery.engine.compress.minded import Minded
from surgery.engine.compress.plan import CompressPlan
from surgery.engine.measure.input_run import InputRun
from surgery.events import Event, Progress
from surgery.methods.neuron_refit import NarrowDown, anchored, narrow, output_error, stacked
from surgery.methods.neurons import Elimination, NeuronMoments, eliminate, kept_of
from surgery.stored.stream import Computed, cast

TOKENS, FRAMES = 1 << 15, 1 << 17
"""Positions that blocks are fitted to at most, of text and of sound."""


@dataclass
class Fitted:
    """Every block as it will be, kept in the transaction.

    Attributes:
        kept: Where results are.
        tag: What tells them from those of other choices there.
        errors: By block the relative error of its output on what it was fitted to: refitted, and
            with its neurons gone and nothing else done.
        weight: Positions that were counted, by weight, in the block that saw most.
    """

    kept: Transaction
    tag: str = ""
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    weight: float = 0.0

    def result(self, site: FeedForwardSite) -> NarrowDown:
        """Return one block's."""
        held = self.kept.unspill(fitted_key(site, self.tag))
        return NarrowDown(held["kept"], held["down"], held.get("bias"))


def watched(
    plan: CompressPlan,
    run: InputRun,
    progress: Progress,
    known: Collection[str],
    fitted: Fitted | None = None,
    attention: AttentionPart | None = None,
) -> Iterator[tuple[FeedForwardSite, NeuronMoments]]:
    """Yield the moments of every block that loses neurons, on the rows to fit to.

    Args:
        plan: What is asked for.
        run: The model and its input; calibrated in sequence without the layers that leave.
        progress: Called with :class:`surgery.events.Event`.
        known: Paths of the blocks whose moments are not needed again.
        fitted: Where blocks as they will be are, the one that was yielded too: each is put into
            the model before the next is watched. Default: all are watched as they are.
        attention: What was cut before, where anything was.
    """
    if not plan.sites:
        return
    model, data, in_turn = run.model, run.dealt.fit, plan.options.sequential
    hearing = Hearing(PADDING_WEIGHT, varied=True, language=plan.options.language)
    decoder = any(site.scope != "encoder" for site in plan.sites)
    most = (TOKENS if data.kind == "text" else FRAMES) * plan.sites[0].width
    gone, there = (plan.gone, plan.sites) if in_turn else ((), plan.sites_of_whole)
    own = {other.path: site for other, site in zip(there, plan.sites, strict=True)}
    done = [path for path, site in own.items() if site.path in known]
    before = nullcontext() if attention is None or in_turn else attention.in_place()
    cut = nullcontext if attention is None or not in_turn else attention.hooked

    def change(other: FeedForwardSite) -> None:
        if fitted is not None:
            narrow_block(model, other, fitted.result(own[other.path]))

    with before, without_layers(model, gone), as_it_was(model, there):
        progress(Event(STAGE, 0, 0, "running up to the first block"))
        towers = towers_of(model, data, run.processor, hearing, decoder=decoder, remembered=most)
        changing, anchor = (None, False) if fitted is None else (change, plan.options.anchor)
        for other, seen in neuron_moments(
            model, there, towers, progress, known=done, change=changing, cut=cut, anchored=anchor
        ):
            yield own[other.path], seen


def fit_blocks(
    plan: CompressPlan,
    run: InputRun,
    minded: Minded | None,
    transaction: Transaction,
    progress: Progress,
    tag: str = "",
    attention: AttentionPart | None = None,
) -> Fitted:
    """Watch, order and fit every block, from where an interrupted run got.

    Args:
        plan: What is asked for.
        run: The model and its input.
        minded: What the output minds of every block, where the order asks for that.
        transaction: Keeps every block as it is done.
        progress: Called with :class:`surgery.events.Event`.
        tag: What tells results from those of other choices.
        attention: What was cut before, where anything was.
    """
    fitted = Fitted(transaction, tag)
    known = {site.path for site in plan.sites if transaction.done(fitted_key(site, tag))}
    in_turn = fitted if plan.options.sequential else None
    for site, seen in watched(plan, run, progress, known, in_turn, attention):
        _fit(plan, site, seen, minded, fitted)
    for site in plan.sites:
        held = transaction.unspill(fitted_key(site, tag))
        fitted_error, deleted_error, weight = held["noted"].tolist()
        fitted.errors[site.path] = fitted_error, deleted_error
        fitted.weight = max(fitted.weight, weight)
    return fitted


def down_of(plan: CompressPlan, site: FeedForwardSite) -> tuple[Tensor, Tensor | None]:
    """Return the map behind a block's neurons, ``(out, in)``, and its bias, in float64."""
    down = plan.source.tensor(site.down.weight).double()
    bias = None if site.down.bias is None else plan.source.tensor(site.down.bias).double()
    return down.T if site.down.transposed else down, bias


def eliminated(
    plan: CompressPlan, site: FeedForwardSite, moments: NeuronMoments, minded: Minded | None
) -> Elimination:
    """Return in which order a block's neurons go, and what that costs."""
    down, bias = down_of(plan, site)
    return eliminate(
        down,
        moments,
        biased=bias is not None,
        order=plan.options.order,
        amends=plan.options.amends,
        ridge=plan.options.ridge,
        metric=None if minded is None else minded[plan.names[site.path]],
    )


def eliminated_key(name: str) -> str:
    """Return where what :func:`eliminated` found of a block is kept, by its original name."""
    return f"neurons:{name}"


def _fit(
    plan: CompressPlan,
    site: FeedForwardSite,
    moments: NeuronMoments,
    minded: Minded | None,
    fitted: Fitted,
) -> None:
    options, transaction = plan.options, fitted.kept
    down, bias = down_of(plan, site)
    width = plan.widths[site.path]
    kept = torch.arange(site.neurons)
    before = eliminated_key(plan.names[site.path])
    if width < site.neurons and not options.sequential and transaction.done(before):
        kept = kept_of(transaction.unspill(before)["order"], width)  # on the same input
    elif width < site.neurons:
        kept = eliminated(plan, site, moments, minded).kept(width)
    result = narrow(down, bias, moments, kept, amends=options.amends, ridge=options.ridge)
    if moments.wanted is not None:
        result = anchored(result, moments)
    deleted = narrow(down, bias, moments, kept, amends="none")
    noted = [
        *(_relative(*output_error(down, bias, moments, one)) for one in (result, deleted)),
        moments.weight,
    ]
    tensors = {
        "kept": kept,
        "down": result.down.double().contiguous(),
        "noted": torch.tensor(noted, dtype=torch.float64),
    }
    if result.bias is not None:
        tensors["bias"] = result.bias.double().contiguous()
    fitted.kept.spill(fitted_key(site, fitted.tag), tensors)


def _relative(lost: float, whole: float) -> float:
    return sqrt(lost / whole) if whole > 0 else 0.0


def fitted_key(site: FeedForwardSite, tag: str) -> str:
    """Return where one block's result is kept."""
    return f"ffn{tag}:{site.path}"


def rewritten(plan: CompressPlan, fitted: Fitted) -> Callable[[str], Computed]:
    """Return what computes the tensors of a block as they are written, by its path."""
    sites: Mapping[str, FeedForwardSite] = {site.path: site for site in plan.sites}

    def compute(path: str) -> Computed:
        site, result = sites[path], fitted.result(sites[path])
        tensors: dict[str, Tensor] = {}
        for name, (axis, times) in site.axes().items():
            if name != site.down.weight:
                kept = stacked(result.kept, site.neurons, times)
                tensors[name] = plan.source.tensor(name).index_select(axis, kept)
        tensors[site.down.weight] = result.down.T if site.down.transposed else result.down
        if site.down.bias is not None and result.bias is not None:
            tensors[site.down.bias] = result.bias
        return Computed({name: cast(name, one, plan.dtype(name)) for name, one in tensors.items()})

    return compute
