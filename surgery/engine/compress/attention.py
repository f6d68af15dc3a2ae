"""Attention's part of a budget over the whole model: what cuts cost, and how they are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from surgery.calibration.dealing import Dealt
from surgery.calibration.modules import AttentionModules
from surgery.calibration.probe import probe_sensitivities
from surgery.calibration.sensitivity import Trials
from surgery.calibration.towers import REMEMBERED, Hearing, towers_of
from surgery.calibration.witness import evenly
from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.writer import TensorSpec
from surgery.choices.common import PADDING_WEIGHT
from surgery.engine.compress.minded import Minded
from surgery.engine.compress.plan import CompressPlan
from surgery.engine.cut.calibrate import Calibrate
from surgery.engine.cut.calibration_run import CalibrationRun
from surgery.engine.cut.decide import price
from surgery.engine.cut.options import Options
from surgery.engine.cut.plan import make_plan
from surgery.engine.cut.pricing import Pricing
from surgery.engine.cut.ranks import site_ranks
from surgery.engine.cut.reporting import build_report
from surgery.engine.cut.rewrite import Errors, block_errors, output_specs, restructuring
from surgery.events import Progress
from surgery.methods import Ranks, Remove, SiteDecomposition, predicted_damage
from surgery.methods.widths import WidthCosts
from surgery.report.model.report import Report
from surgery.runtime.heads import SiteRanks
from surgery.stored.stream import Computed

NAME = "attention"
STEPS = 64
"""Budgets of all attention that are priced; between two of them prices change little."""
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

    Args:
        plan: What is asked for, attention seams among it.
        progress: Called with :class:`surgery.events.Event`.

    Attributes:
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
        asked = Options(
            Remove(0.0),
            scope="all",
            pairs=options.attention,
            dtype=options.dtype,
            calibrate=calibrate,
        )
        whole, encoder = make_plan(plan.source, asked, plan.asked), options.scope == "encoder"
        self.plan = replace(
            whole,
            sites=tuple(
                each
                for each in whole.sites
                if options.scope == "all" or (each.site.scope == "encoder") == encoder
            ),
        )
        self.run = CalibrationRun(self.plan, progress)
        self.run.dealt = thinned(self.run.dealt)
        self._pricing: Pricing | None = None
        self._costs: WidthCosts | None = None
        self._budgets: dict[int, Ranks] = {}
        self._chosen: Ranks = {}
        self.ranks: Mapping[str, SiteRanks] = {}
        self._errors: Errors = {}

    @property
    def sites(self) -> list[Any]:
        """The blocks that can be cut."""
        return [each.site for each in self.plan.sites if each.treated]

    def outputs(self) -> dict[str, nn.Module]:
        """Return the module whose output each block adds to the stream, by its path."""
        model = self.run.model
        return {site.path: AttentionModules(model, site).projections["o"] for site in self.sites}

    def price(self, minded: Minded, transaction: Transaction, progress: Progress) -> WidthCosts:
        """Decompose and probe every block; return what each budget of all of them costs.

        Args:
            minded: What the output minds of every block.
            transaction: Keeps what is found.
            progress: Called with :class:`surgery.events.Event`.
        """
        if self._costs is not None:
            return self._costs
        self._pricing, _ = price(
            self.plan,
            self.run,
            transaction,
            progress,
            minded=minded.__getitem__,
            tried=lambda found: self._probed(found, minded, progress),
        )
        self._costs = self._curve()
        return self._costs

    def _probed(
        self, found: Mapping[str, SiteDecomposition], minded: Minded, progress: Progress
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
        metrics = {path: minded[path] for path in found}
        return probe_sensitivities(run.model, towers, self.sites, found, metrics, progress)

    def _curve(self) -> WidthCosts:
        pricing = self.priced
        whole, most = round(pricing.whole), pricing.most
        widths, costs = list[int](), list[float]()
        for step in range(STEPS + 1):
            ranks = pricing.ranks(most * step / STEPS)
            left = whole - round(pricing.removed(ranks) * whole)
            if left not in self._budgets:
                self._budgets[left] = ranks
                widths.append(left)
                costs.append(predicted_damage(pricing.spectra, ranks))
        return WidthCosts(widths, costs, 1)

    @property
    def priced(self) -> Pricing:
        """Prices of cuts, once there are."""
        if self._pricing is None:
            raise ValueError("attention was not priced yet")
        return self._pricing

    def cut_to(self, left: int, transaction: Transaction) -> None:
        """Cut to one of the budgets that were priced, by what it leaves, and refit outputs."""
        pricing = self.priced
        self._chosen = self._budgets[left]
        if self.run.settings.refits:
            pricing.refit(self._chosen, transaction)
        self.ranks = site_ranks(self.plan, self._chosen, pricing.decompositions)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run the model as if its attention had been cut."""
        with self.priced.in_place(self._chosen):
            yield

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
