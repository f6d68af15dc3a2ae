"""Fit every block to the neurons that stay, layer by layer, and keep each as it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import sqrt

import torch
from torch import Tensor

from surgery.architectures.feed_forward import FeedForwardSite
from surgery.calibration.feed_forward import neuron_moments
from surgery.calibration.towers import Hearing, towers_of
from surgery.calibration.without_layers import without_layers
from surgery.checkpoint.transaction import Transaction
from surgery.choices.common import PADDING_WEIGHT
from surgery.engine.compress.in_place import as_it_was, narrow_block
from surgery.engine.compress.plan import CompressPlan, neuron_axes
from surgery.engine.measure.input_run import InputRun
from surgery.events import Progress
from surgery.methods.neuron_refit import NarrowDown, narrow, output_error
from surgery.methods.neurons import Amends, NeuronMoments, eliminate
from surgery.stored.stream import Computed, cast

TOKENS, FRAMES = 1 << 15, 1 << 17
"""Positions that blocks are fitted to at most, of text and of sound."""


@dataclass
class Fitted:
    """Every block as it will be, kept in the transaction.

    Attributes:
        kept: Where results are.
        errors: By block the relative error of its output on what it was fitted to: refitted, and
            with its neurons gone and nothing else done.
        weight: Positions that were counted, by weight, in the block that saw most.
    """

    kept: Transaction
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    weight: float = 0.0

    def result(self, site: FeedForwardSite) -> NarrowDown:
        """Return one block's."""
        held = self.kept.unspill(_key(site))
        return NarrowDown(held["kept"], held["down"], held.get("bias"))


def fit_blocks(
    plan: CompressPlan, run: InputRun, transaction: Transaction, progress: Progress
) -> Fitted:
    """Watch, order and fit every block, from where an interrupted run got.

    Args:
        plan: What is asked for.
        run: The model and its input.
        transaction: Keeps every block as it is done.
        progress: Called with :class:`surgery.events.Event`.
    """
    options, model, fitted = plan.options, run.model, Fitted(transaction)
    if not plan.sites:
        return fitted
    hearing = Hearing(PADDING_WEIGHT, varied=True, language=options.language)
    decoder = any(site.scope != "encoder" for site in plan.sites)
    most = (TOKENS if run.dealt.fit.kind == "text" else FRAMES) * plan.sites[0].width
    gone, watched = (plan.gone, plan.sites) if options.sequential else ((), plan.sites_of_whole())
    own = {there.path: site for there, site in zip(watched, plan.sites, strict=True)}
    known = {path: site for path, site in own.items() if transaction.done(_key(site))}
    with without_layers(model, gone), as_it_was(model, watched):
        towers = towers_of(
            model, run.dealt.fit, run.processor, hearing, decoder=decoder, remembered=most
        )
        if options.sequential:
            for site in known.values():
                narrow_block(model, site, fitted.result(site))
        moments = neuron_moments(
            model, watched, towers, progress, known=known, changing=options.sequential
        )
        for there, seen in moments:
            site = own[there.path]
            _fit(plan, site, seen, transaction)
            if options.sequential:
                narrow_block(model, site, fitted.result(site))
    for site in plan.sites:
        fitted_error, deleted_error, weight = transaction.unspill(_key(site))["noted"].tolist()
        fitted.errors[site.path] = fitted_error, deleted_error
        fitted.weight = max(fitted.weight, weight)
    return fitted


def _fit(
    plan: CompressPlan, site: FeedForwardSite, moments: NeuronMoments, transaction: Transaction
) -> None:
    options, source = plan.options, plan.source
    down = source.tensor(site.down.weight).double()
    down = down.T if site.down.transposed else down
    bias = None if site.down.bias is None else source.tensor(site.down.bias).double()
    amends: Amends = "refit" if options.refit else "none"
    found = eliminate(
        down,
        moments,
        biased=bias is not None,
        order=options.order,
        amends=amends,
        ridge=options.ridge,
    )
    kept = found.kept(plan.widths[site.scope])
    result = narrow(down, bias, moments, kept, amends=amends, ridge=options.ridge)
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
    transaction.spill(_key(site), tensors)


def _relative(lost: float, whole: float) -> float:
    return sqrt(lost / whole) if whole > 0 else 0.0


def _key(site: FeedForwardSite) -> str:
    return f"ffn:{site.path}"


def rewritten(plan: CompressPlan, fitted: Fitted) -> Callable[[str], Computed]:
    """Return what computes the tensors of a block as they are written, by its path."""
    sites: Mapping[str, FeedForwardSite] = {site.path: site for site in plan.sites}

    def compute(path: str) -> Computed:
        site, result = sites[path], fitted.result(sites[path])
        tensors: dict[str, Tensor] = {}
        for name, axis in neuron_axes(site).items():
            if name != site.down.weight:
                tensors[name] = plan.source.tensor(name).index_select(axis, result.kept)
        tensors[site.down.weight] = result.down.T if site.down.transposed else result.down
        if site.down.bias is not None and result.bias is not None:
            tensors[site.down.bias] = result.bias
        return Computed({name: cast(name, one, plan.dtype(name)) for name, one in tensors.items()})

    return compute
