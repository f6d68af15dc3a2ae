"""Attention's part of a budget over the whole model: what cuts cost, and how they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from surgery.architectures.base import AttentionSite, tower_holding
from surgery.architectures.dropping import by_tower, renamed
from surgery.calibration.dealing import Dealt
from surgery.calibration.modules import AttentionModules
from surgery.calibration.probe import probe_sensitivities
from surgery.calibration.sensitivity import Trials
from surgery.calibration.towers import REMEMBERED, Hearing, towers_of
from surgery.calibration.without_layers import without_layers
from surgery.calibration.witness import evenly
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.writer import TensorSpec
from surgery.choices.common import PADDING_WEIGHT
from surgery.choices.rules import SeamName
from surgery.engine.compress.minded import Minded
from surgery.engine.compress.plan import CompressPlan
from surgery.engine.cut.calibrate import Calibrate
from surgery.engine.cut.calibration_run import CalibrationRun
from surgery.engine.cut.decide import price
from surgery.engine.cut.options import Options
from surgery.engine.cut.plan import Plan, make_plan
from surgery.engine.cut.pricing import Pricing
from surgery.engine.cut.ranks import site_ranks
from surgery.engine.cut.reporting import build_report
from surgery.engine.cut.rewrite import Errors, block_errors, output_specs, restructuring
from surgery.events import Progress
from surgery.methods import (
    Ranks,
    Remove,
    SiteDecomposition,
    SiteSpectra,
    choose_ranks,
    most_removable,
    predicted_damage,
)
from surgery.methods.widths import WidthCosts
from surgery.report.model.report import Report
from surgery.runtime.heads import SiteRanks
from surgery.stored.stream import Computed

STEPS = 32
"""Budgets of a block that are priced; between two of them prices change little."""
TOKENS = 4096
"""Positions that blocks are probed on."""
CHARACTERS = 1 << 18
"""Of text that is fitted to at most: some 60,000 tokens of English."""


def thinned(dealt: Dealt) -> Dealt:
    """Leave out documents to fit to beyond what feed-forward blocks are fitted to, evenly."""
    documents = dealt.fit.documents
    size = sum(len(each.text) for each in documents)
    if dealt.trial is dealt.fit or size <= CHARACTERS:
        return dealt
    some = evenly(documents, max(1, len(documents) * CHARACTERS // size))
    return replace(dealt, fit=replace(dealt.fit, documents=tuple(some)))


class AttentionPart:
    """The attention of a model that is compressed.

    Blocks are priced by the names of the whole checkpoint, and cut by those that they have without
    the layers that leave (:meth:`at`).

    Args:
        plan: What is asked for, attention seams among it.
        progress: Called with :class:`surgery.events.Event`.

    Attributes:
        plan: The blocks, by the names of the result.
        run: The model and its input, for everything that is compressed.
        ranks: What stays of each block, once that was decided.

    Raises:
        SurgeryError: Calibration data cannot be read, or does not fit; no such seam can be cut.
    """

    def __init__(self, plan: CompressPlan, progress: Progress) -> None:
        options = plan.options
        calibrate = Calibrate(
            options.calibrate,
            samples=options.samples,
            language=options.language,
            device=options.device,
            trials=False,
            refit=options.refit,
        )
        self._asked = Options(
            Remove(0.0),
            scope="all",
            pairs=options.attention,
            dtype=options.dtype,
            calibrate=calibrate,
        )
        self._compress = plan
        self._whole = self.plan = self._planned(plan.whole.source)
        self.run = CalibrationRun(self.plan, progress)
        self.run.dealt = thinned(self.run.dealt)
        self._priced: dict[str, tuple[SiteDecomposition, SiteSpectra]] = {}
        self._pricing: Pricing | None = None
        self._budgets: dict[str, dict[int, dict[SeamName, list[int]]]] = {}
        self._chosen: Ranks = {}
        self.ranks: Mapping[str, SiteRanks] = {}
        self._errors: Errors = {}

    def _planned(self, source: TensorSource) -> Plan:
        """Return the blocks in scope of a checkpoint; cross-attention is the decoder's."""
        plan = make_plan(source, self._asked, self._compress.asked)
        scope = self._compress.options.scope
        inside = (each for each in plan.sites if scope in ("all", tower_holding(each.site.scope)))
        return replace(plan, sites=tuple(inside))

    @property
    def sites(self) -> list[AttentionSite]:
        """The blocks that can be cut."""
        return [each.site for each in self.plan.sites if each.treated]

    @property
    def names(self) -> dict[str, str]:
        """By the whole checkpoint's name of a block the one that it has in the result."""
        whole, gone = self._whole, by_tower(self._compress.gone)
        found = {
            each.site.path: renamed(whole.family, whole.claims.prefix, each.site.path, gone)
            for each in whole.sites
            if each.treated
        }
        return {path: name for path, name in found.items() if name is not None}

    def at(self, plan: CompressPlan) -> None:
        """Speak of blocks as they are called once a plan's layers have left."""
        self._compress = plan
        self.plan = self._planned(plan.source)
        self.run.sites = self.sites
        if self._priced:
            found = {name: self._priced[path] for path, name in self.names.items()}
            decompositions = {name: one for name, (one, _) in found.items()}
            spectra = {name: one for name, (_, one) in found.items()}
            self._pricing = Pricing(self.plan, self.run, decompositions, spectra)

    def outputs(self) -> dict[str, nn.Module]:
        """Return the module whose output each block adds to the stream, by its original name."""
        modules = {site.path: AttentionModules(self.run.model, site) for site in self.sites}
        return {path: modules[name].projections["o"] for path, name in self.names.items()}

    def price(
        self, minded: Minded, transaction: Transaction, progress: Progress
    ) -> dict[str, WidthCosts]:
        """Decompose and probe every block; return what each budget of each costs.

        Sizes are parameters. The least is that of a block that keeps no values: what it says is a
        constant then, whatever its queries and keys do, so these count for nothing.

        Args:
            minded: What the output minds of every block.
            transaction: Keeps what is found.
            progress: Called with :class:`surgery.events.Event`.
        """
        metrics = {name: partial(minded.__getitem__, path) for path, name in self.names.items()}
        with without_layers(self.run.model, self._compress.gone):
            pricing, _ = price(
                self.plan,
                self.run,
                transaction,
                progress,
                minded=lambda name: metrics[name](),
                tried=lambda found: self._probed(found, metrics, progress),
            )
        self._pricing = pricing
        self._priced = {
            path: (pricing.decompositions[name], pricing.spectra[name])
            for path, name in self.names.items()
        }
        return {path: self._curve(path) for path in self._priced}

    def _probed(
        self,
        found: Mapping[str, SiteDecomposition],
        minded: Mapping[str, Callable[[], Tensor]],
        progress: Progress,
    ) -> Trials:
        """Return what cuts do, block by block."""
        run = self.run
        hearing = Hearing(PADDING_WEIGHT, language=run.settings.language)
        decoder = any(site.scope != "encoder" for site in self.sites)
        width = max(site.o.out_features for site in self.sites)
        rows = run.dealt.trial
        most = TOKENS * width if rows.kind == "text" else REMEMBERED
        towers = towers_of(
            run.model, rows, run.processor, hearing, decoder=decoder, remembered=most
        )
        metrics = {path: minded[path]() for path in found}
        return probe_sensitivities(run.model, towers, self.sites, found, metrics, progress)

    def _curve(self, path: str) -> WidthCosts:
        """Return what every budget of one block costs, and keep the ranks of each."""
        spectra = self._priced[path][1]
        layout, multiple = self.plan.options.layout, self.plan.options.multiple
        one = {path: spectra}
        whole = sum(each.values.numel() * each.cost for each in spectra.values())
        most = most_removable(one, layout, multiple)
        budgets, costs = self._budgets.setdefault(path, {}), dict[int, float]()
        for step in range(STEPS + 1):
            share = most * step / STEPS / whole
            ranks = choose_ranks(one, Remove(share), layout=layout, multiple=multiple)
            kept = ranks[path]
            left = sum(sum(kept[seam]) * each.cost for seam, each in spectra.items())
            silent = "vo" in kept and not any(kept["vo"])
            count = {path: {"vo": spectra["vo"]}} if silent else one
            if left not in budgets:
                budgets[left], costs[left] = kept, predicted_damage(count, ranks)
        return WidthCosts([*costs], [*costs.values()], 1)

    @property
    def priced(self) -> Pricing:
        """Prices of cuts, once there are."""
        if self._pricing is None:
            raise ValueError("attention was not priced yet")
        return self._pricing

    def is_silent(self, name: str, left: int | None) -> bool:
        """Whether a block keeps no values at one of the budgets that were priced."""
        kept = self._budgets.get(name, {}).get(-1 if left is None else left, {})
        return "vo" in kept and not any(kept["vo"])

    def silent(self, name: str) -> AbstractContextManager[None]:
        """Run the model as if a block kept no values; by its name in the whole checkpoint."""
        path = self.names[name]
        heads = len(self.priced.spectra[path]["vo"].values)
        return self.priced.in_place({path: {"vo": [0] * heads}})

    def cut_to(self, left: Mapping[str, int], transaction: Transaction) -> None:
        """Cut blocks to budgets that were priced, by what these leave, and refit outputs.

        Args:
            left: Parameters by the whole checkpoint's name of every block that stays.
            transaction: Keeps what is found.
        """
        pricing = self.priced
        self._chosen = {name: self._budgets[path][left[path]] for path, name in self.names.items()}
        if self.run.settings.refits:
            with without_layers(self.run.model, self._compress.gone):
                pricing.refit(self._chosen, transaction)
        self.ranks = site_ranks(self.plan, self._chosen, pricing.decompositions)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run the model as if its attention had been cut, with all of its layers or without."""
        with ExitStack() as hooks:
            with without_layers(self.run.model, self._compress.gone):
                hooks.enter_context(self.hooked())
            yield

    def hooked(self) -> AbstractContextManager[None]:
        """Run the model, which has lost its layers, as if its attention had been cut."""
        return self.priced.in_place(self._chosen)

    def specs(self) -> dict[str, list[TensorSpec]]:
        """Return every tensor of the model with its attention cut, by shard."""
        return output_specs(self.plan, self.ranks)

    def compute(self, path: str) -> Computed:
        """Return the tensors of one block as they are written."""
        pricing = self.priced
        return restructuring(self.plan, pricing.decompositions, self.ranks, pricing.refitted)(path)

    def written(self, transaction: Transaction) -> None:
        """Note how far products are from the original's, as written."""
        self._errors = block_errors(self.plan, transaction)

    def report(self, sha256: Mapping[str, str], output: str | None) -> Report:
        """Return the report of attention alone."""
        return build_report(
            self.plan,
            self.ranks,
            decompositions=self.priced.decompositions,
            errors=self._errors,
            sha256=sha256,
            output=output,
        )
