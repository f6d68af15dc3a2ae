"""One budget after another in the running model: what goes, fitted, in place, and counted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from math import isnan

from surgery.architectures.feed_forward import FeedForwardSite
from surgery.calibration.feed_forward import down_module
from surgery.calibration.without_layers import without_layers
from surgery.calibration.witness import Scoped
from surgery.checkpoint.journal import digest
from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.writer import TensorSpec
from surgery.engine.compress.attention import AttentionPart
from surgery.engine.compress.budget import Budget, Choice
from surgery.engine.compress.candidates import COMPARED, STAGE, Candidate, candidates
from surgery.engine.compress.fit import Fitted, fit_blocks, fitted_key
from surgery.engine.compress.goal import parameters_of
from surgery.engine.compress.in_place import compressed
from surgery.engine.compress.minded import Minded, watch_output
from surgery.engine.compress.plan import CompressPlan, in_scope
from surgery.engine.measure.input_run import InputRun
from surgery.events import Event, Progress


class Cutting:
    """What budgets make of one model; prices of its parts are found once for all of them.

    Args:
        plan: What is asked for, the layers that leave known.
        run: The model and its input.
        attention: Its part, where it shares the budget.
        transaction: Keeps what is found.
        progress: Called with :class:`surgery.events.Event`.

    Attributes:
        plan: What was chosen last.
        expected: What that is expected to do to the output.
        several: Whether more than one budget is fitted: results are then kept apart.
        budget: What parts cost, where they are compared.
        found: The ways to spend the budget that was chosen last, the one that was taken first.
    """

    def __init__(
        self,
        plan: CompressPlan,
        run: InputRun,
        attention: AttentionPart | None,
        transaction: Transaction,
        progress: Progress,
    ) -> None:
        self.plan, self.run, self.attention = plan, run, attention
        self.transaction, self.progress = transaction, progress
        self.expected: float | None = None
        self.several = False
        if attention is not None:
            attention.at(plan)
        self._minded = self._watched()
        if self._minded is None:  # what layers take is enough
            self.attention = None
        self.budget: Budget | None = None
        self.found: list[Candidate] = []
        self._fitted: dict[str, tuple[Fitted, tuple[FeedForwardSite, ...]]] = {}

    def _watched(self) -> Minded | None:
        """Find what the output minds of every block, where that is asked."""
        plan, attention, model = self.plan, self.attention, self.run.model
        blocks = plan.sites if plan.options.bound is None else in_scope(plan.stored, plan.options)
        if not blocks or not plan.options.minds:
            return None
        with without_layers(model, plan.gone):
            outputs = {plan.names[site.path]: down_module(model, site) for site in blocks}
            sites: list[Scoped] = [*plan.gone, *blocks]
            if attention is not None:
                outputs |= attention.outputs()
                sites += attention.sites
            kept, language = self.transaction, plan.options.language
            return watch_output(self.run, sites, outputs, kept, self.progress, language=language)

    def priced(self) -> Budget | None:
        """Return what parts cost, found when first wanted; ``None`` where none are compared."""
        if self.budget is None and self._minded is not None and self.plan.options.compares:
            parts = self._minded, self.attention, self.transaction, self.progress
            self.budget = Budget(self.plan, self.run, *parts)
        return self.budget

    def choose(self, plan: CompressPlan) -> None:
        """Choose what goes of every part, and cut attention so, where it shares the budget.

        Where layers share it, the likeliest choices are fitted, run and compared.

        Raises:
            UsageError: So much cannot go.
        """
        self.plan, self.expected = plan, None
        budget = self.priced()
        if budget is None:
            return
        found = candidates(budget, plan, self.transaction, self.progress)
        likely, others = found[:COMPARED], found[COMPARED:]
        if len(likely) > 1:
            self.several = True
            for at, one in enumerate(likely):
                self.progress(Event(STAGE, at, len(likely), f"{len(one.layers)} layers gone"))
                self.take(one.choice)
                measured = budget.damage(f"choice:{self.key}", self.in_place)
                likely[at] = replace(one, measured=measured)
            self.progress(Event(STAGE, len(likely), len(likely)))
            likely.sort(key=lambda one: (isnan(one.measured or 0.0), one.measured))
        self.found = [*likely, *others]
        self.take(likely[0].choice)

    def take(self, choice: Choice) -> None:
        """Cut attention to a choice, and fit the rest to it when it is put in place."""
        self.plan, self.expected = choice.plan, choice.expected
        if self.attention is not None:
            self.attention.at(choice.plan)
            self.attention.cut_to(choice.left, self.transaction)

    @property
    def key(self) -> str:
        """What tells this choice from others of this model."""
        ranks = {} if self.attention is None else self.attention.ranks
        heads = {path: [list(one.qk), list(one.vo)] for path, one in sorted(ranks.items())}
        gone = [str(layer) for layer in self.plan.gone]
        return digest([gone, sorted(self.plan.widths.items()), heads])[:16]

    def fit(self) -> Fitted:
        """Fit what is left of every block, or return what was fitted before."""
        key = self.key
        if key not in self._fitted:
            asked = self.plan, self.run, self._minded, self.transaction, self.progress
            fitted = fit_blocks(*asked, f"-{key}" if self.several else "", self.attention)
            self._fitted[key] = fitted, self.plan.sites
        return self._fitted[key][0]

    def forget(self, kept: Collection[str]) -> None:
        """Let go of what was fitted for choices, but for those of these keys."""
        for key in self._fitted.keys() - {*kept}:
            for site in self._fitted.pop(key)[1]:
                self.transaction.discard(fitted_key(site, f"-{key}"))

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Run the model with its attention cut."""
        with nullcontext() if self.attention is None else self.attention.in_place():
            yield

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run the model as it was chosen, fitted."""
        fitted = self.fit()
        with compressed(self.run.model, self.plan, fitted.result, self.cut):
            yield

    @property
    def removed(self) -> float:
        """Share of the whole model that goes."""
        left = sum(
            one.numel for some in specs_of(self.plan, self.attention).values() for one in some
        )
        return 1 - left / parameters_of(self.plan.whole)


def specs_of(plan: CompressPlan, attention: AttentionPart | None) -> Mapping[str, list[TensorSpec]]:
    """Return every tensor of a result, by shard."""
    narrow = plan.specs()
    if attention is None:
        return narrow
    own = attention.plan.blocks()
    cut = {each.name: each for some in attention.specs().values() for each in some}
    return {
        shard: [cut[each.name] if each.name in own else each for each in some]
        for shard, some in narrow.items()
    }
