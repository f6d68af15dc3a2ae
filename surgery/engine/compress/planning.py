"""``plan``: what to run for a smaller model, priced in every way that is known, nothing written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from surgery.calibration.held_out import HeldOut
from surgery.calibration.witness import Scoped, error_of, unit_of
from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction, digest
from surgery.checkpoint.writer import file_bytes
from surgery.choices.option import flag
from surgery.choices.rules import ATTENTION_SEAMS
from surgery.choices.where import given_by
from surgery.engine.compress.attention import AttentionPart
from surgery.engine.compress.candidates import HOPELESS, candidates
from surgery.engine.compress.chosen import in_eight_bits, model_plan, name_of, set_apart
from surgery.engine.compress.cutting import Cutting, specs_of
from surgery.engine.compress.options import CompressOptions
from surgery.engine.compress.plan import CompressPlan, make_plan
from surgery.engine.compress.within import choose_within
from surgery.engine.measure import priced
from surgery.engine.measure.bounds import WITHIN, check_bound
from surgery.engine.measure.input_run import InputRun
from surgery.engine.measure.noted import noted
from surgery.errors import UsageError
from surgery.events import Event, Progress, ignore
from surgery.report.model.calibration import Calibration, SearchStep
from surgery.report.model.planned import ModelPlan, Tried
from surgery.report.serialise import decoded
from surgery.version import versions

STAGE = "Trying candidates"
WHOLE = (*ATTENTION_SEAMS, "ffn")
SPENT = (
    ("ragged", WHOLE),
    ("ragged", (*WHOLE, "layers")),
    ("ragged", ("ffn",)),
    ("model", ("ffn",)),
    ("model", ("ffn", "layers")),
)
"""Layouts and seams of the ways; of two that come out as the same the first is told."""
HOPELESS_WAY = f"expected to cost more than {HOPELESS:g} times the best, and not fitted"
VARIED = ("of", "layout", "seams", "scope", "layers", "drop_layers")
"""Options that a plan finds."""


def plan(
    model: str | Path,
    *,
    options: CompressOptions | None = None,
    keep: str | Path | None = None,
    revision: str | None = None,
    progress: Progress = ignore,
) -> ModelPlan:
    """Find what to run for a smaller model: try every way, price each, and write nothing.

    Ways are layouts, seams, towers and whole layers. Each is fitted and run, but those that are
    expected to cost several times what another does; rows for trials choose, and rows that had no
    part in it price.

    Args:
        model: Directory, ``.pt``, short name, hub id, or the embedded ``whisper-micro``.
        options: What is asked for: a share, a target, or a bound. What a plan finds is left open:
            layout, seams, scope and layers.
        keep: Folder to keep in what is found: the same plan, run again, goes on from there.
        revision: Hub revision.
        progress: Called with :class:`surgery.events.Event`.

    Raises:
        SurgeryError: What is wrong, where, and what to do; and if no way does it.
    """
    options = options or CompressOptions()
    default = CompressOptions()
    fixed = [name for name in VARIED if getattr(options, name) != getattr(default, name)]
    if fixed:
        found = ", ".join(map(flag, fixed))
        raise UsageError("A plan finds this by itself", found=found, hint="leave it out")
    with resolve(str(model), revision=revision) as source:
        if keep is not None:
            return Planning(source, options, str(model), Path(keep), progress, keep=True).plan()
        with TemporaryDirectory() as place:
            return Planning(source, options, str(model), Path(place), progress).plan()


class Planning:
    """One plan.

    Args:
        source: The model.
        options: What is asked for.
        asked: What the user called the model.
        place: Where what is found is kept meanwhile.
        progress: Called with :class:`surgery.events.Event`.
        keep: Keep it there for another run.
    """

    def __init__(
        self,
        source: TensorSource,
        options: CompressOptions,
        asked: str,
        place: Path,
        progress: Progress,
        *,
        keep: bool = False,
    ) -> None:
        self._source, self._options, self._asked = source, options, asked
        self._place, self._progress, self._keep = place, progress, keep
        widest = replace(options, layout="ragged", seams=WHOLE)
        self._whole = make_plan(source, widest, asked)
        self._run = InputRun(source, options.calibrate, options.samples, options.device, progress)
        if options.bound is not None:
            check_bound(options.bound, self._run.dealt.trial, source, WITHIN)
        self._opened = ExitStack()
        self._kept: dict[str, Transaction] = {}
        self._least = inf

    def plan(self) -> ModelPlan:
        """Try every candidate, and choose."""
        ways, tried = list(self._ways()), list[Tried]()
        with self._opened, self._run as run:
            notes = self._transaction("ways")
            stored, language = self._whole.whole, self._options.language
            sites: list[Scoped] = [*stored.blocks, *stored.claims.sites]
            self._heard = run.witness_of(sites, language)
            held_out = run.dealt.held_out
            self._rows = (
                None
                if held_out is None
                else HeldOut(run.model, sites, held_out, run.processor, language=language)
            )
            for number, way in enumerate(ways):
                self._progress(Event(STAGE, number, len(ways), name_of(way)))
                beaten = max((one.removed or 0 for one in tried if not one.rejected), default=0.0)
                find = partial(self._priced, way, beaten)
                tried.append(noted(notes, f"way:{number}", find, partial(decoded, Tried)))
                if tried[-1].told is not None:
                    self._least = min(self._least, tried[-1].told.measured or inf)
            self._progress(Event(STAGE, len(ways), len(ways)))
        return model_plan(self._whole, self._options, ways, tried)

    def _ways(self) -> Iterator[CompressOptions]:
        """Yield the candidates, tower by tower."""
        options, whole = self._options, self._whole
        towers = list(dict.fromkeys(one.scope for one in whole.blocks))
        for scope in ("all", *(towers if len(towers) > 1 else ())):
            for layout, seams in SPENT:
                yield replace(options, layout=layout, seams=seams, scope=scope)

    def _priced(self, way: CompressOptions, beaten: float) -> Tried:
        """Fit and run one candidate, or say why it cannot be had."""
        try:
            return self._try(way, beaten)
        except UsageError as error:
            why = ", ".join(filter(None, [error.message, error.expected]))
            return Tried(set_apart(way), refused=why)

    def _try(self, way: CompressOptions, beaten: float) -> Tried:
        options, progress = self._options, self._progress
        asked = make_plan(self._source, way, self._asked)
        attention = AttentionPart(asked, progress) if way.attention else None
        run = self._run if attention is None else attention.run
        if attention is not None:
            run.share(self._run)
        whole = len(run.dealt.fit) == len(self._run.dealt.fit)
        kept = self._transaction(f"{way.scope}-{'whole' if whole else 'thinned'}")
        cutting, steps = Cutting(asked, run, attention, kept, progress), list[SearchStep]()
        cutting.several = True
        if options.bound is None:
            if self._hopeless(cutting, asked):
                return Tried(set_apart(way), rejected=HOPELESS_WAY)
            cutting.choose(asked)
        else:
            steps = choose_within(options.bound, cutting, heard=self._heard, beaten=beaten)
        with cutting.in_place():
            measured = error_of(self._heard.output, self._heard.damage())
        shards = specs_of(cutting.plan, cutting.attention).values()
        found = Tried(
            set_apart(way),
            parameters=sum(one.numel for shard in shards for one in shard),
            bytes=sum(map(file_bytes, shards)),
            removed=cutting.removed,
            eight_bits=in_eight_bits(shards),
            told=self._calibration(cutting, measured, steps),
        )
        cutting.forget(())
        kept_bound = not steps or any(step.accepted for step in steps)
        return found if kept_bound else replace(found, rejected="breaks the bound")

    def _calibration(
        self, cutting: Cutting, measured: float, steps: list[SearchStep]
    ) -> Calibration:
        rows, progress, bound = self._rows, self._progress, self._options.bound
        found = None
        if rows is not None:
            asked = cutting.in_place, progress, None, cutting.key
            found = priced.told(priced.in_words(priced.price(rows, *asked), rows, *asked))
        return Calibration(
            data=self._run.on.name,
            samples=self._run.on.count,
            queries=0.0,
            output=self._heard.output,
            unit=unit_of(self._heard.output),
            padding_weight=0.0,
            ridge=self._options.ridge,
            measured=measured,
            bound=None if bound is None else next(iter(given_by(bound))),
            search=steps,
            in_sample=self._run.dealt.trial is self._run.dealt.fit,
            held_out=found,
        )

    def _hopeless(self, cutting: Cutting, asked: CompressPlan) -> bool:
        """Whether a candidate is expected to cost several times what another was measured to.

        Expectations flatter. They compare with what was measured where the output is the same.
        """
        budget = cutting.priced()
        if budget is None or budget.heard.output != self._heard.output:
            return False
        best = candidates(budget, asked, cutting.transaction, self._progress)[0]
        expected = error_of(self._heard.output, best.choice.expected)
        return expected > HOPELESS * self._least

    def _transaction(self, name: str) -> Transaction:
        """Return where is kept what candidates of the same tower and data share, or their prices.

        What another plan left in the same folder is told from it by all that was asked.
        """
        if name not in self._kept:
            told: dict[str, Any] = {"plan": name}
            if self._keep:
                given = self._options.plain(), self._run.on.samples, self._source.identity()
                told |= {"of": digest([*given, versions()])}
            place = self._place / f"{name}-{told.get('of', '')[:12]}"
            begun = Transaction(place, told, resume=self._keep, keep=self._keep)
            self._kept[name] = self._opened.enter_context(begun)
        return self._kept[name]
