"""What budgets cost: predicted from trials, and tried on the running model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from surgery.architectures.seams import seams_of
from surgery.calibration.cut import OutputChange, SiteCut, cut_heads, kept_product
from surgery.calibration.held_out import Price as HeldOutPrice
from surgery.checkpoint.journal import digest
from surgery.engine.cut.calibration_run import CalibrationRun
from surgery.engine.cut.decompose import Spill
from surgery.engine.cut.plan import Plan
from surgery.engine.cut.ranks import budget_base, plan_ranks
from surgery.engine.cut.refit import refit_outputs
from surgery.engine.measure import priced
from surgery.engine.measure.noted import noted, number
from surgery.errors import UsageError
from surgery.events import Event
from surgery.methods import (
    Layout,
    Ranks,
    Remove,
    SiteDecomposition,
    SiteSpectra,
    most_removable,
    predicted_damage,
)
from surgery.report.model.calibration import Price

BUDGETS = tuple(number / 16 for number in range(1, 13))
"""Fractions of the attention in scope on a price curve."""

COMPARED: tuple[Layout, ...] = ("ragged", "block", "tied")
"""Layouts whose ranks differ between blocks: their price curves are drawn together."""

TRIED = (0.125, 0.25, 0.375, 0.5, 0.625)
"""Those of them that are tried on the running model."""

CURVE, CUT = "Trying the price curve", "Trying the cut"
"""Stages of a run."""


class Pricing:
    """Prices of cuts of one model.

    Args:
        plan: What was asked for.
        run: The calibration.
        decompositions: How every block would be cut, by its path.
        spectra: The same with costs and measured damage.

    Attributes:
        refitted: What :meth:`refit` added to outputs, by block.
    """

    def __init__(
        self,
        plan: Plan,
        run: CalibrationRun,
        decompositions: Mapping[str, SiteDecomposition],
        spectra: Mapping[str, SiteSpectra],
    ) -> None:
        self.plan, self.run = plan, run
        self.decompositions, self.spectra = decompositions, spectra
        self.refitted: Mapping[str, OutputChange] = {}
        self._refitted_at: Ranks | None = None

    @property
    def most(self) -> float:
        """Largest fraction of the attention in scope that can go."""
        options = self.plan.options
        return most_removable(self.spectra, options.layout, options.multiple) / self.whole

    @property
    def whole(self) -> int:
        """Parameters of the attention, or of the one pair, in scope."""
        base = budget_base(self.plan, Remove(0.0))
        if base is not None:
            return base
        return sum(
            spectrum.values.numel() * spectrum.cost
            for pairs in self.spectra.values()
            for spectrum in pairs.values()
        )

    def removed(self, ranks: Ranks) -> float:
        """Return the fraction of the attention, or of the one pair, in scope that these remove."""
        gone = 0
        for each in self.plan.sites:
            seams = seams_of(each.site)
            for pair, kept in ranks.get(each.site.path, {}).items():
                gone += (len(kept) * each.site.head_dim - sum(kept)) * seams[pair].cost
        return gone / self.whole

    def ranks(self, fraction: float, layout: Layout | None = None) -> Ranks:
        """Return the ranks of a budget.

        Raises:
            UsageError: It cannot be had under this layout.
        """
        return plan_ranks(self.plan, self.spectra, rule=Remove(fraction), layout=layout)

    def predicted(self, ranks: Ranks) -> float | None:
        """Return the predicted error of the model's output; ``None`` without trials."""
        return self.expected(ranks) if self.run.settings.tries else None

    def expected(self, ranks: Ranks) -> float:
        """Return the same where trials were made (ValueError where they were not)."""
        return self.run.error(predicted_damage(self.spectra, ranks))

    def measured(self, ranks: Ranks) -> float:
        """Return the error of the model's output on the rows for trials, with the cut in place."""

        def measure() -> float:
            witness = self.run.witness  # hears the original when it is first asked for: uncut
            with self.in_place(ranks):
                return self.run.error(witness.damage())

        return noted(self.run.spill, f"budget:{self.key(ranks)}", measure, number)

    def tried(self, ranks: Ranks) -> float:
        """Return the same, as a stage of its own."""
        self.run.progress(Event(CUT, 0, 1))
        error = self.measured(ranks)
        self.run.progress(Event(CUT, 1, 1))
        return error

    def key(self, ranks: Ranks) -> str:
        """Return what tells this cut from others in the notes of a run."""
        return digest([ranks, ranks == self._refitted_at])[:24]

    def held_out(self, ranks: Ranks) -> HeldOutPrice | None:
        """Return what a cut costs on rows that nothing was fitted to; ``None`` without any.

        Word errors are not counted yet (see :meth:`in_words`).
        """
        rows = self.run.held_out
        if rows is None:
            return None
        in_place, run = (lambda: self.in_place(ranks)), self.run
        return priced.price(rows, in_place, run.progress, run.spill, self.key(ranks))

    def in_words(self, price: HeldOutPrice | None, ranks: Ranks) -> HeldOutPrice | None:
        """Count word errors, too, where held-out recordings have words."""
        rows = self.run.held_out
        if price is None or rows is None:
            return price
        in_place, run = (lambda: self.in_place(ranks)), self.run
        return priced.in_words(price, rows, in_place, run.progress, run.spill, self.key(ranks))

    def refit(self, ranks: Ranks, spill: Spill | None) -> None:
        """Fit output projections to what these ranks leave, wherever these are in place again."""
        if ranks == self._refitted_at:
            return
        cuts = {
            path: cut
            for path, cut in self._cuts(ranks, whole=False).items()
            if cut.qk is not None or cut.vo is not None
        }
        self.refitted = refit_outputs(self.run, cuts, spill, self.key(ranks), self.run.progress)
        self._refitted_at = ranks

    def forget(self) -> None:
        """Leave output projections as they were."""
        self.refitted, self._refitted_at = {}, None

    @contextmanager
    def in_place(self, ranks: Ranks) -> Iterator[None]:
        """Run the model as if it had been cut to these ranks."""
        cuts = self._cuts(ranks)
        if ranks == self._refitted_at:
            cuts |= {
                path: replace(cuts[path], output=added) for path, added in self.refitted.items()
            }
        with cut_heads(self.run.model, self.run.sites, cuts):
            yield

    def _cuts(self, ranks: Ranks, *, whole: bool = True) -> dict[str, SiteCut]:
        """Return what becomes of each block; of pairs that lose nothing only if ``whole``."""
        cuts: dict[str, SiteCut] = {}
        for path, pairs in ranks.items():
            products = {
                pair: kept_product(part, pairs[pair])
                for pair, part in self.decompositions[path].parts.items()
                if pair in pairs and (whole or min(pairs[pair]) < part.spectrum.shape[1])
            }
            cuts[path] = SiteCut.of(products)
        return cuts

    def curve(self, *, measure: bool) -> list[Price]:
        """Return the price of every budget under every layout that can be had.

        One rank for the whole model has a curve of its own: under RoPE its heads keep other
        frequencies than they would each for itself.

        Args:
            measure: Try some budgets of the plan's own layout on the running model, too.
        """
        prices: list[Price] = []
        if not self.run.settings.tries:
            return prices
        own, told = self.plan.options.layout, 0
        for layout in COMPARED if own in COMPARED else (own,):
            for fraction in BUDGETS:
                try:
                    ranks = self.ranks(fraction, layout)
                except UsageError:  # this layout, or so much, cannot be had
                    break
                tried = measure and layout == own and fraction in TRIED
                if tried:
                    self.run.progress(Event(CURVE, told, len(TRIED), f"{fraction:.1%} removed"))
                    told += 1
                prices.append(
                    Price(
                        layout,
                        self.removed(ranks),
                        self.expected(ranks),
                        self.measured(ranks) if tried else None,
                    )
                )
        if told:
            self.run.progress(Event(CURVE, told, told))
        return prices
