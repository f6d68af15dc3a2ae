"""``plan``: what to run for a smaller model, priced in every way that is known, nothing written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from math import inf, isnan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from surgery.calibration.held_out import HeldOut
from surgery.calibration.witness import Scoped, error_of, unit_of
from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.source import TensorSource
from surgery.checkpoint.transaction import Transaction
from surgery.checkpoint.writer import TensorSpec, file_bytes
from surgery.choices.option import command_line, flag
from surgery.choices.rules import ATTENTION_SEAMS
from surgery.choices.targets import bytes_in
from surgery.choices.where import given_by
from surgery.engine.compress.attention import AttentionPart
from surgery.engine.compress.cutting import Cutting, specs_of
from surgery.engine.compress.goal import parameters_of
from surgery.engine.compress.layers import choose_layers
from surgery.engine.compress.options import CompressOptions
from surgery.engine.compress.plan import make_plan
from surgery.engine.compress.within import choose_within
from surgery.engine.measure import priced
from surgery.engine.measure.bounds import WITHIN, check_bound
from surgery.engine.measure.input_run import InputRun
from surgery.errors import UsageError
from surgery.events import Event, Progress, ignore
from surgery.report.model.calibration import Calibration, SearchStep
from surgery.report.model.planned import Alternative, ModelPlan, Tried
from surgery.report.quantised import int8_bytes, q8_0_bytes

EIGHT = (
    "int8 is a byte a number and a scale a row of every matrix (CTranslate2), q8_0 34 bytes for 32 "
    "numbers (llama.cpp); surgery export writes both, and nothing was run for these figures."
)
STAGE = "Trying candidates"
WHOLE = (*ATTENTION_SEAMS, "ffn")
GOALS = ("remove", "target_parameters", "target_size", "within")
VARIED = ("of", "layout", "seams", "scope", "layers", "drop_layers")
"""Options that a plan finds."""


def plan(
    model: str | Path,
    *,
    options: CompressOptions | None = None,
    revision: str | None = None,
    progress: Progress = ignore,
) -> ModelPlan:
    """Find what to run for a smaller model: try every way, price each, and write nothing.

    Ways are layouts, seams, towers and whole layers. Each is fitted and run; rows for trials
    choose, and rows that had no part in it price.

    Args:
        model: Directory, ``.pt``, short name, hub id, or the embedded ``whisper-micro``.
        options: What is asked for: a share, a target, or a bound. What a plan finds is left open:
            layout, seams, scope and layers.
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
    with resolve(str(model), revision=revision) as source, TemporaryDirectory() as place:
        return Planning(source, options, str(model), Path(place), progress).plan()


class Planning:
    """One plan.

    Args:
        source: The model.
        options: What is asked for.
        asked: What the user called the model.
        place: Where what is found is kept meanwhile.
        progress: Called with :class:`surgery.events.Event`.
    """

    def __init__(
        self,
        source: TensorSource,
        options: CompressOptions,
        asked: str,
        place: Path,
        progress: Progress,
    ) -> None:
        self._source, self._options, self._asked = source, options, asked
        self._place, self._progress = place, progress
        widest = replace(options, layout="ragged", seams=WHOLE)
        self._whole = make_plan(source, widest, asked)
        self._run = InputRun(source, options.calibrate, options.samples, options.device, progress)
        if options.bound is not None:
            check_bound(options.bound, self._run.dealt.trial, source, WITHIN)
        self._opened = ExitStack()
        self._kept: dict[str, Transaction] = {}
        self._specs: dict[int, list[TensorSpec]] = {}

    def plan(self) -> ModelPlan:
        """Try every candidate, and choose."""
        ways, tried = list(self._ways()), list[Tried]()
        with self._opened, self._run as run:
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
                self._progress(Event(STAGE, number, len(ways), _name(way)))
                beaten = max((one.removed or 0 for one in tried if not one.rejected), default=0.0)
                try:
                    tried.append(self._try(number, way, beaten))
                except UsageError as error:
                    why = ", ".join(filter(None, [error.message, error.expected]))
                    tried.append(Tried(_apart(way), refused=why))
            self._progress(Event(STAGE, len(ways), len(ways)))
        return self._told(ways, tried)

    def _ways(self) -> Iterator[CompressOptions]:
        """Yield the candidates, of each tower first what finds most that others can use."""
        options, whole = self._options, self._whole
        towers = list(dict.fromkeys(one.scope for one in whole.blocks))
        for scope in ("all", *(towers if len(towers) > 1 else ())):
            for layout, seams in (("ragged", WHOLE), ("ragged", ("ffn",)), ("model", ("ffn",))):
                yield replace(options, layout=layout, seams=seams, scope=scope)
        try:
            alone = CompressOptions(layers="1")
            one = make_plan(self._source, alone, self._asked)
        except UsageError:  # there is but one
            return
        size, able = parameters_of(one.whole) - parameters_of(one.stored), len(one.layers)
        number = min(int(whole.wanted // size), able - len(towers))
        if options.bound is None and number > 0:
            yield replace(options, layers=str(number))

    def _try(self, number: int, way: CompressOptions, beaten: float) -> Tried:
        """Fit and run one candidate."""
        options, progress = self._options, self._progress
        asked = make_plan(self._source, way, self._asked)
        attention = AttentionPart(asked, progress) if way.attention else None
        run = self._run if attention is None else attention.run
        if attention is not None:
            run.share(self._run)
        kept = self._transaction(way, len(run.dealt.fit) == len(self._run.dealt.fit))
        if asked.to_choose:
            gone, _ = choose_layers(asked, run, kept, progress)
            asked = make_plan(self._source, way, self._asked, gone=gone)
        cutting, steps = Cutting(asked, run, attention, kept, progress), list[SearchStep]()
        cutting.several = True
        if options.bound is None:
            cutting.choose(asked)
        else:
            steps = choose_within(options.bound, cutting, heard=self._heard, beaten=beaten)
        with cutting.in_place():
            measured = error_of(self._heard.output, self._heard.damage())
        shards = specs_of(cutting.plan, cutting.attention).values()
        self._specs[number] = [one for shard in shards for one in shard]
        found = Tried(
            _apart(way),
            parameters=sum(one.numel for one in self._specs[number]),
            bytes=sum(map(file_bytes, shards)),
            removed=cutting.removed,
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

    def _transaction(self, way: CompressOptions, whole: bool) -> Transaction:
        """Return where is kept what candidates of the same tower, data and layers share."""
        name = f"{way.scope}-{way.layers or 0}-{'whole' if whole else 'thinned'}"
        if name not in self._kept:
            begun = Transaction(self._place / name, {"plan": name}, keep=False)
            self._kept[name] = self._opened.enter_context(begun)
        return self._kept[name]

    def _told(self, ways: list[CompressOptions], tried: list[Tried]) -> ModelPlan:
        """Choose, and say what was found."""
        able = [at for at, one in enumerate(tried) if not (one.refused or one.rejected)]
        if not able:
            why = (one.refused or one.rejected for one in tried)
            raise UsageError(
                "Nothing that was tried does this",
                found="; ".join(
                    f"{_name(way)}: {told}" for way, told in zip(ways, why, strict=True)
                ),
                hint="ask for less",
            )
        best = min(able, key=lambda at: self._rank(tried[at]))
        stored = self._whole.whole
        given = ((name, getattr(self._options, name)) for name in GOALS)
        written = specs_of(replace(self._whole, sites=(), widths={}), None).values()
        was = [one for shard in written for one in shard]
        now = self._specs[best]
        infos = [[(one.shape, one.dtype.itemsize) for one in some] for some in (was, now)]
        kinds = {"int8": int8_bytes, "q8_0": q8_0_bytes}
        others = [Alternative(name, *map(of, infos)) for name, of in kinds.items()]
        return ModelPlan(
            model=self._source.name,
            asked=" ".join(f"{flag(name)} {told}" for name, told in given if told is not None),
            command=self._command(ways[best], tried[best]),
            parameters=parameters_of(stored),
            bytes=sum(map(file_bytes, written)),
            tried=[
                replace(one, rejected=self._why(one, tried, best)) if at != best else one
                for at, one in enumerate(tried)
            ],
            alternatives=others,
            notes=[EIGHT, *self._enough(others)],
        )

    def _enough(self, others: list[Alternative]) -> list[str]:
        """Say where fewer bits alone are enough."""
        size = self._options.target_size
        met = [one.name for one in others if size is not None and one.original <= bytes_in(size)]
        names = " or ".join(met)
        return [f"With {names} alone --target-size is met: nothing has to go."] if met else []

    def _rank(self, one: Tried) -> tuple[float, float]:
        """Return what the least of is best: within a bound less is left, else what it costs."""
        measured = inf if one.told is None or isnan(one.told.measured or 0) else one.told.measured
        return (-(one.removed or 0.0) if self._options.bound is not None else 0.0, measured or 0.0)

    def _why(self, one: Tried, tried: list[Tried], best: int) -> str:
        """Say why a candidate is not what is to be run."""
        if one.refused or one.rejected:
            return one.rejected
        if self._options.bound is None or one.removed == tried[best].removed:
            return "costs more"
        return "less goes within the bound"

    def _command(self, way: CompressOptions, found: Tried) -> str:
        """Return what makes a candidate; of a bound what keeps it, without a search."""
        if way.within is not None:
            way = replace(way, within=None, remove=None, target_parameters=found.parameters)
        words = way.words()
        if self._source.revision is not None:
            words += ["--revision", self._source.revision]
        return command_line(way.command, self._asked, words, None)


def _apart(way: CompressOptions) -> dict[str, Any]:
    told: dict[str, Any] = {"layout": way.layout, "seams": list(way.seams), "scope": way.scope}
    return told if way.layers is None else told | {"layers": way.layers}


def _name(way: CompressOptions) -> str:
    more = [] if way.scope == "all" else [way.scope]
    more += [] if way.layers is None else [f"{way.layers} layers less"]
    return " ".join([way.layout, ",".join(way.seams), *more])
