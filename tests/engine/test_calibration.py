"""What a user sees of calibration: statistics that are kept, bounds that hold, data that leaks."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import surgery
from surgery.calibration.cut import OutputChange
from surgery.engine.cut import absorb, pricing
from surgery.engine.cut import refit as refitting
from surgery.engine.cut.absorb import NOT_REFITTED
from surgery.engine.cut.pricing import COMPARED as LAYOUTS
from surgery.engine.cut.search import CLOSE
from surgery.engine.measure import input_run
from surgery.errors import CheckpointError, TargetError, UsageError
from surgery.evaluation.perplexity import perplexity
from surgery.events import Event
from surgery.report.card import to_card
from surgery.report.html import to_html
from surgery.report.model.calibration import Calibration
from surgery.report.model.report import Report
from surgery.report.serialise import from_json, to_json
from tests.engine.spoken import OTHER_TEXT, TEXT, save_clips, save_listener, save_spoken
from tests.engine.support import config_of, contents, tensors_of

QUARTER = surgery.Remove(0.25)
LEFT_OVER = ".out.surgery-partial"
STATISTICS = "kept.statistics"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> Path:
    """The current folder: a LLaMA, a Whisper, something to read and to hear; two budgets only."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pricing, "BUDGETS", (0.25, 0.5))
    save_spoken("llama", tmp_path / "llama")
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "other.txt").write_text(OTHER_TEXT)
    return tmp_path


@pytest.fixture
def whisper(place: Path) -> str:
    save_clips(place / "clips", range(2))
    return str(save_listener(place / "whisper").name)


def options(rule: Any = QUARTER, **settings: Any) -> surgery.Options:
    given = {"data": "text.txt"} | settings
    others = {key: given.pop(key) for key in ("scope", "layout", "multiple") if key in given}
    return surgery.Options(rule=rule, calibrate=surgery.Calibrate(**given), **others)


def cut(model: str = "llama", out: str = "out", *, rule: Any = QUARTER, **more: Any) -> Report:
    keys = ("force", "resume", "dry_run", "progress", "allow_leakage")
    named = {key: more.pop(key) for key in keys if key in more}
    measured_on = more.pop("measured_on", None)
    return surgery.absorb_decompose(
        model, out, options=options(rule, **more), data=measured_on, **named
    )


def told(report: Report) -> Calibration:
    assert report.calibration is not None
    return report.calibration


def stored(report: Report) -> Report:
    """As a file keeps it: to so many digits."""
    return from_json(to_json(report))


def untouched(*allowed: str) -> bool:
    """Whether nothing was written, not even work for a resumed run."""
    return {"out", LEFT_OVER, STATISTICS} & {*os.listdir()} <= {*allowed}


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and from then on no model may be run."""

    def forbid() -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise AssertionError("a model was loaded")

        monkeypatch.setattr(input_run, "load", fail)

    return forbid


def test_saved_statistics_give_the_same_result_with_and_without_data(
    idle: Callable[[], None],
) -> None:
    first = cut(out="first", statistics=STATISTICS, refit=False)
    kept = Path(STATISTICS).read_bytes()
    again = cut(out="again", statistics=STATISTICS, refit=False)
    tried = cut(out="tried", rule=surgery.MaxError(1e-9), statistics=STATISTICS)
    assert told(tried).search and not any(step.accepted for step in told(tried).search)
    idle()
    alone = cut(out="alone", data=None, statistics=STATISTICS)
    assert Path(STATISTICS).read_bytes() == kept
    weights = [contents(Path(out))["model.safetensors"] for out in ("first", "again", "alone")]
    assert weights[0] == weights[1] == weights[2]
    assert told(again) == told(first)
    assert told(alone) == replace(told(first), measured=None)
    assert NOT_REFITTED in alone.notes and NOT_REFITTED not in first.notes
    assert told(first).measured is not None and told(first).statistics is not None
    assert told(first).samples == 1  # a document, of two lines
    blocks = [config_of(Path(out))["surgery"]["operations"][0] for out in ("first", "alone")]
    assert blocks[0]["sites"] == blocks[1]["sites"]
    record = blocks[0]["provenance"]["calibration"]
    assert record == blocks[1]["provenance"]["calibration"]
    assert record["kind"] == "text" and len(record["samples"]) == 2
    assert record["name"].endswith("/text.txt")
    assert str(Path.cwd()) not in json.dumps(blocks)


def test_a_refit_lowers_the_error_and_is_resumed_where_it_was_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, fitted = told(cut(out="plain", refit=False)), told(cut(out="fitted"))
    assert plain.unfitted is None and plain.measured == fitted.unfitted
    assert fitted.measured is not None and fitted.unfitted is not None
    assert fitted.measured < fitted.unfitted
    sizes = [
        config_of(Path(out))["surgery"]["operations"][0]["sites"] for out in ("plain", "fitted")
    ]
    assert sizes[0] == sizes[1]
    weights = [contents(Path(out))["model.safetensors"] for out in ("plain", "fitted")]
    assert weights[0] != weights[1] and len(weights[0]) == len(weights[1])

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(absorb, "rewrite", stop)
        cut(out="again")
    monkeypatch.setattr(refitting, "refit", stop)
    assert told(cut(out="again", resume=True)) == fitted
    assert contents(Path("again"))["model.safetensors"] == weights[1]


def test_where_a_refit_does_not_help_outputs_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def worse(_: Any, __: Any, sites: Any, *___: Any) -> dict[str, OutputChange]:
        return {
            site.path: OutputChange(
                torch.ones(site.width, site.heads * site.head_dim).double(), None
            )
            for site in sites
        }

    cut(out="plain", refit=False)
    monkeypatch.setattr(refitting, "refit", worse)
    found = told(cut(out="kept"))
    assert found.measured == found.unfitted
    weights = [contents(Path(out))["model.safetensors"] for out in ("plain", "kept")]
    assert weights[0] == weights[1]


def test_a_refit_wants_data() -> None:
    with pytest.raises(UsageError, match="there is no data"):
        surgery.Calibrate(statistics=STATISTICS, refit=True)
    assert not surgery.Calibrate("shipped").refits
    assert surgery.Calibrate("shipped", refit=True).refits
    assert (
        surgery.Calibrate("text.txt").refits
        and not surgery.Calibrate("text.txt", refit=False).refits
    )


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def not_finite(path: Path) -> None:
    from surgery.calibration.storage import KEY
    from surgery.checkpoint.header import read_header

    tensors, metadata = load_file(path), read_header(path)[0].metadata
    next(iter(tensors.values()))[0, 0, 0] = torch.nan
    save_file(tensors, path, metadata={KEY: metadata[KEY]})


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"model": "other"}, UsageError, "of another model"),
        ({"data": "other.txt"}, UsageError, "on other data"),
        ({"padding_weight": 0.5}, UsageError, "in another way"),
        ({"data": None, "ridge": 0.3}, UsageError, "at this ridge, and there is no data"),
        ({"data": None, "statistics": "text.txt"}, CheckpointError, "no safetensors"),
        ({"data": None, "statistics": "nothing"}, CheckpointError, "no such file"),
        ({"data": None, "statistics": "llama"}, CheckpointError, "no such file"),
        ({"spoil": damaged}, CheckpointError, "truncated"),
        ({"spoil": not_finite}, CheckpointError, "damaged"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_statistics_of_something_else_are_refused(
    asked: dict[str, Any], error: type[Exception], words: str
) -> None:
    save_spoken("llama", Path("other"), seed=1)
    cut(dry_run=True, statistics=STATISTICS)
    kept = Path(STATISTICS)
    asked.pop("spoil", lambda path: None)(kept)
    was = kept.read_bytes()
    with pytest.raises(error, match=words):
        cut(**{"statistics": STATISTICS} | asked)
    assert kept.read_bytes() == was
    assert untouched(STATISTICS)


def test_a_dry_run_writes_the_statistics_that_were_asked_for_and_nothing_else() -> None:
    was = {*os.listdir()}
    report = cut(dry_run=True, statistics=STATISTICS)
    assert {*os.listdir()} - was == {STATISTICS}
    cut(dry_run=True)
    assert {*os.listdir()} - was == {STATISTICS}
    assert report.output is None and told(report).measured is not None


def test_another_ridge_is_tried_anew_on_the_same_moments() -> None:
    first = cut(dry_run=True, statistics=STATISTICS)
    moments = load_file(STATISTICS)
    second = cut(dry_run=True, statistics=STATISTICS, ridge=0.5)
    assert all(torch.equal(load_file(STATISTICS)[key], value) for key, value in moments.items())
    assert told(first).ridge == 0.05 and told(second).ridge == 0.5
    values = [one for one in told(first).sensitivities if one.pair == "vo"]
    others = [one for one in told(second).sensitivities if one.pair == "vo"]
    assert all(a.dropped != b.dropped for a, b in zip(values, others, strict=True))
    alone = cut(dry_run=True, data=None, statistics=STATISTICS, ridge=0.5)
    assert told(alone).sensitivities == told(second).sensitivities


def test_blocks_that_were_not_looked_at_are_looked_at_now(whisper: str) -> None:
    heard: dict[str, Any] = {"data": "clips", "dry_run": True}
    cut(whisper, scope="encoder", statistics=STATISTICS, **heard)
    with pytest.raises(UsageError, match="lack an attention block") as caught:
        cut(whisper, scope="all", data=None, statistics=STATISTICS)
    assert "decoder" in str(caught.value.where) and untouched(STATISTICS)
    more = cut(whisper, scope="all", statistics=STATISTICS, **heard)
    fresh = cut(whisper, scope="all", statistics="fresh.statistics", **heard)
    assert told(more) == told(fresh)
    assert Path(STATISTICS).read_bytes() == Path("fresh.statistics").read_bytes()

    # The other way round: of the encoder alone another output is compared.
    less = cut(whisper, scope="encoder", statistics=STATISTICS, **heard)
    only = cut(whisper, scope="encoder", statistics="only.statistics", **heard)
    assert told(more).output == "next token" and told(less).output == "encoder output"
    assert replace(told(less), statistics=None) == replace(told(only), statistics=None)


def test_recordings_that_were_varied_are_not_those_as_they_are(whisper: str) -> None:
    cut(whisper, data="clips", statistics=STATISTICS, dry_run=True)
    with pytest.raises(UsageError, match="in another way") as caught:
        cut(whisper, data="clips", statistics=STATISTICS, varied=False)
    assert "recordings varied" in str(caught.value.found)
    with pytest.raises(UsageError, match="on other data"):
        cut(whisper, data="clips", samples=1, statistics=STATISTICS)


@pytest.mark.parametrize(
    ("layout", "multiple", "share"), [("ragged", 1, 0.3), ("tied", 3, 0.5), ("block", 2, 0.6)]
)
def test_a_bound_on_the_error_is_kept_and_used_up(layout: Any, multiple: int, share: float) -> None:
    shape: dict[str, Any] = {"layout": layout, "multiple": multiple, "dry_run": True}
    shape["statistics"] = STATISTICS
    everything = cut(rule=surgery.MaxError(1e9), **shape)
    assert all(step.accepted for step in told(everything).search)
    most = everything.savings[0].removed
    with pytest.raises(UsageError, match="at most") as caught:
        cut(rule=surgery.Remove(0.99), **shape)
    assert f"at most {most:.1%}"[:-2] in str(caught.value.expected)

    bound = share * (told(everything).measured or 0)
    found = cut(rule=surgery.MaxError(bound), **shape)
    tried = told(found)
    assert tried.bound == "max_error" and tried.measured is not None
    assert 0 < tried.measured <= bound and 0 < found.savings[0].removed < most
    assert all(step.accepted == (step.value <= bound) for step in tried.search)
    kept = max(step.removed for step in tried.search if step.accepted)
    broken = min(step.removed for step in tried.search if not step.accepted)
    # Steps say what went, in whole vectors: the search may have ended where none lies between.
    next_one = cut(rule=surgery.Remove((kept + broken) / 2), **shape).savings[0].removed
    narrow = broken - kept <= CLOSE or len(tried.search) == 8
    assert kept < broken and (narrow or next_one == pytest.approx(broken))

    nothing = cut(rule=surgery.MaxError(0.0), **shape)
    assert nothing.savings[0].removed == 0 == told(nothing).measured
    assert not any(step.accepted for step in told(nothing).search)


def test_a_bound_on_the_error_is_predicted_where_nothing_can_be_run(
    idle: Callable[[], None],
) -> None:
    cut(dry_run=True, statistics=STATISTICS)
    idle()
    found = cut(rule=surgery.MaxError(0.05), data=None, statistics=STATISTICS, dry_run=True)
    assert 0 < (told(found).predicted or 0) <= 0.05 and told(found).measured is None
    for bound in (surgery.MaxPplIncrease(0.1), surgery.MaxWerIncrease(1.0)):
        with pytest.raises(UsageError, match="measured on data"):
            cut(rule=bound, data=None, statistics=STATISTICS)
    assert untouched(STATISTICS)


def test_a_bound_on_perplexity_holds_for_the_checkpoint_itself() -> None:
    cut(rule=surgery.MaxPplIncrease(0.02), refit=False)
    before, after = (
        perplexity(surgery.load(path), AutoTokenizer.from_pretrained(path), [TEXT]).perplexity
        for path in ("llama", "out")
    )
    assert 1.0 != after / before <= 1.02 + 1e-6
    steps = told(from_json(Path("out/report.json").read_text())).search
    best = max((step for step in steps if step.accepted), key=lambda step: step.removed)
    assert best.value == pytest.approx(100 * (after / before - 1), abs=1e-3)
    assert best.value <= 2 < min(step.value for step in steps if not step.accepted)


def test_a_bound_on_word_errors_is_kept() -> None:
    save_clips(Path("spoken"), range(3))
    bound = surgery.MaxWerIncrease(10.0)
    found = cut("whisper-micro", rule=bound, data="spoken", scope="cross", dry_run=True)
    steps = told(found).search
    assert told(found).bound == "max_wer_increase" and steps
    assert all(step.accepted == (step.value <= 10) for step in steps)
    kept = max((step.removed for step in steps if step.accepted), default=0.0)
    assert found.savings[0].removed == pytest.approx(kept, abs=5e-3)
    assert 0 < kept < max(step.removed for step in steps)


@pytest.mark.parametrize(
    ("model", "data", "rule", "words"),
    [
        ("whisper", "mute", surgery.MaxWerIncrease(1.0), "recordings with transcripts"),
        ("whisper", "clips", surgery.MaxPplIncrease(0.1), "predicts text"),
        ("llama", "text.txt", surgery.MaxWerIncrease(1.0), "a model that hears"),
        ("llama", "text.txt", surgery.MaxError(-1.0), "out of range"),
        ("llama", "text.txt", surgery.MaxError(float("nan")), "out of range"),
        ("llama", "text.txt", surgery.MaxPplIncrease(-0.1), "out of range"),
        ("whisper", "clips", surgery.MaxWerIncrease(101.0), "out of range"),
    ],
)
def test_bounds_that_cannot_be_measured_are_refused_before_any_work(
    whisper: str, idle: Callable[[], None], model: str, data: str, rule: Any, words: str
) -> None:
    save_clips(Path("mute"), range(1), words=False)
    idle()
    with pytest.raises(UsageError, match=words):
        cut(model, rule=rule, data=data, statistics=STATISTICS)
    assert untouched()
    with pytest.raises(UsageError, match=r"out of range|needs real input"):
        surgery.absorb_decompose(model, "out", options=surgery.Options(rule=rule, by_weights=True))


def test_calibration_data_is_not_measured_on(idle: Callable[[], None]) -> None:
    Path("mixed.txt").write_text(OTHER_TEXT + TEXT.splitlines()[1].replace(" ", "  ") + "\n")
    for data in ("text.txt", "mixed.txt"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(input_run, "load", lambda *_, **__: pytest.fail("loaded"))
            with pytest.raises(UsageError, match="calibrated on some of the data") as caught:
                cut(measured_on=data, statistics=STATISTICS)
        assert "--allow-leakage" in str(caught.value.hint) and untouched()
    report = cut(measured_on="mixed.txt", allow_leakage=True)
    assert told(report).leaked == 1 and report.measurements
    kept = from_json(Path("out/report.json").read_text())
    assert told(kept).leaked == 1
    for view in (to_html(kept), to_card(kept)):
        assert "in both the calibration and the evaluation data" in view
    assert told(cut(out="clean", measured_on="other.txt")).leaked == 0

    with pytest.raises(UsageError, match="calibrated"):
        surgery.evaluate(["llama", "out"], "text.txt")
    found = surgery.evaluate(["llama", "out"], "other.txt", resamples=5)
    assert not any(row.leaked for row in found.rows)
    with pytest.raises(UsageError, match="calibrated"):  # saved statistics know what they saw
        cut(out="alone", dry_run=True, statistics=STATISTICS)
        cut(out="alone", data=None, statistics=STATISTICS, measured_on="text.txt")


def test_the_clips_of_the_embedded_model_leak_like_any_others(idle: Callable[[], None]) -> None:
    idle()
    save_clips(Path("own"), range(3, 5))
    with pytest.raises(UsageError, match="calibrated on some of the data") as caught:
        cut("whisper-micro", data="own")
    assert "2 of 48" in str(caught.value.found) and untouched()


def test_what_was_calibrated_on_verifies_nothing() -> None:
    cut()
    with pytest.raises(UsageError, match="calibrated on some of the data") as caught:
        surgery.verify("llama", "out", data="text.txt")
    assert "surgery evaluate" in str(caught.value.hint)
    surgery.verify("llama", "out", data="text.txt", weights_only=True)


def test_the_same_is_not_done_twice_and_another_calibration_is_not_the_same() -> None:
    first = cut(statistics=STATISTICS)
    was = contents(Path("out"))
    again = cut(statistics=STATISTICS)
    assert "Already done" in again.notes[0] and told(again) == told(stored(first))
    Path("text.txt").write_text(OTHER_TEXT)  # of the same name
    with pytest.raises(TargetError, match="not empty"):
        cut(statistics="new.statistics")
    assert contents(Path("out")) == was
    for other in ({"ridge": 0.1}, {"padding_weight": 0.5}, {"data": "other.txt"}):
        with pytest.raises(TargetError, match="not empty"):
            cut(**{"data": "text.txt", "statistics": None} | other)


class InterruptionError(Exception):
    """What a test interrupts a run with."""


@pytest.mark.parametrize(
    "statistics",
    [
        pytest.param(None, id="without"),
        pytest.param(STATISTICS, id="saved", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("stage", "done"),
    [
        ("Calibrating", 0),
        ("Decomposing attention", 1),
        ("Measuring sensitivities", 2),
        ("Writing", 5),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    stage: str, done: int, statistics: str | None
) -> None:
    def stop(event: Event) -> None:
        if (event.stage, event.done) == (stage, done):
            raise InterruptionError

    cut(out="whole/out")
    with pytest.raises(InterruptionError):
        cut(progress=stop, statistics=statistics)
    assert untouched(LEFT_OVER, STATISTICS)
    if stage == "Writing":
        Path("text.txt").write_text(OTHER_TEXT)
        found = r"did something else|on other data"
        with pytest.raises((TargetError, UsageError), match=found) as caught:
            cut(resume=True, statistics=statistics)
        assert len(str(caught.value)) < 1000
        Path("text.txt").write_text(TEXT)
    cut(resume=True, statistics=statistics)
    whole, resumed = contents(Path("whole/out")), contents(Path("out"))
    if statistics is None:
        assert resumed == whole
    assert resumed["model.safetensors"] == whole["model.safetensors"]


@pytest.fixture
def every_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "BUDGETS", tuple(number / 8 for number in range(1, 6)))


@pytest.mark.usefixtures("every_budget")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inspect_prices_every_layout_and_tries_the_one_asked_for(layout: Any) -> None:
    report = surgery.inspect("llama", options=options(layout=layout))
    prices = told(report).prices
    assert {price.layout for price in prices} == {*LAYOUTS}
    curves = {each: [one for one in prices if one.layout == each] for each in LAYOUTS}
    for own, curve in curves.items():
        assert len(curve) == 5
        errors = [price.predicted for price in curve]
        assert errors == sorted(errors) and errors[0] > 0
        shares = [price.removed for price in curve]
        for share, asked in zip(shares, pricing.BUDGETS, strict=True):
            assert asked <= share <= asked + 0.1
        assert all((price.measured is not None) == (own == layout) for price in curve)
    for ragged, block, tied in zip(*(curves[each] for each in LAYOUTS), strict=True):
        assert ragged.predicted <= block.predicted * 1.001
        assert block.predicted <= tied.predicted * 1.001
    assert told(stored(report)).prices[0].predicted == pytest.approx(prices[0].predicted, rel=1e-4)
    with pytest.raises(UsageError, match="headers only"):
        surgery.inspect("llama", options=options(), structure=True)


def test_pairs_whose_energy_a_few_vectors_hold_have_a_price_too() -> None:
    save_spoken("bert", Path("thin"))
    tensors = tensors_of(Path("thin"))
    for key, tensor in tensors.items():
        if "attention.self.key" in key or "attention.self.value" in key:
            tensor.unflatten(0, (4, 8))[:, 2:] = 0
    save_file(tensors, "thin/model.safetensors", metadata={"format": "pt"})
    report = cut("thin", rule=surgery.Remove(0.8), ridge=0.0)
    assert (told(report).predicted or 0) > 0
    assert all(len(each.damage) == 4 for each in told(report).sensitivities)
    shutil.rmtree("out")
