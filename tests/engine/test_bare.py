"""The bare command: real input from the package, a budget that does little harm, and its price."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import surgery
from surgery.choices.common import SHIPPED
from surgery.choices.rules import little_divergence
from surgery.engine.cut import settle as settling
from surgery.engine.cut.estimate import estimate_text
from surgery.engine.measure import shipped
from surgery.errors import CheckpointError, UsageError
from surgery.events import Event
from surgery.methods import LITTLE_ERROR
from surgery.report.card import to_card
from surgery.report.html import to_html
from surgery.report.serialise import from_json
from surgery.report.text.damage import UNMEASURED, damage_text
from surgery_cli.main import app
from tests.engine.spoken import save_clips, save_listener, save_spoken
from tests.engine.support import config_of, contents, save_tiny

LEFT_OVER = ".out.surgery-partial"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> Path:
    """The current folder; of the package's text a page is read, letter by letter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(shipped.NAMES, "text", "sample.txt")
    return tmp_path


def headline(done: Any) -> str:
    return " ".join(done.stdout.split("Parameters")[0].split())


def surgery_of(*words: str) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])


def test_whisper_micro_is_cut_by_its_own_clips_and_says_what_it_cost(place: Path) -> None:
    done = surgery_of("absorb-decompose", "whisper-micro", "-o", "out")
    assert done.exit_code == 0, done.output
    said = headline(done)
    assert "held-out windows of surgery's own tones" in said
    assert "Word error rate" in said and "95 % interval" in said

    report = json.loads((place / "out/report.json").read_text())
    told = report["calibration"]
    assert told["data"] == "surgery's own tones" and not told["sensitivities"]
    assert not told["in_sample"] and told["held_out"]["rows"] == 5
    assert told["held_out"]["error"]["value"] <= LITTLE_ERROR
    assert report["options"]["up_to"] == 0.464 and report["options"]["calibrate"] == SHIPPED
    assert report["options"]["scope"] == "encoder"
    views = (place / "out/README.md").read_text(), to_html(from_json(json.dumps(report)))
    for text in views:
        assert "held-out windows" in text and "othing was measured" not in text

    again = surgery_of("absorb-decompose", "whisper-micro", "-o", "out")
    assert "Already done" in again.output
    assert report["command"].endswith("-o out")
    words = report["command"].split()[1:-2]
    copied = surgery_of(*words, "-o", "copied")
    assert copied.exit_code == 0, copied.output
    name = "model.safetensors"
    assert (place / "copied" / name).read_bytes() == (place / "out" / name).read_bytes()


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_text_models_budget_is_lowered_until_it_does_little_harm(name: str, place: Path) -> None:
    save_spoken(name, place / name)
    events: list[Event] = []
    report = surgery.absorb_decompose(name, "out", progress=events.append)

    told = report.calibration
    assert told is not None and told.held_out is not None and told.bound == "up_to"
    text = damage_text(report)
    if report.savings[0].removed:
        assert text is not None and "held-out windows of surgery's own text" in text.text
        assert text.tone == "plain"
    limit = LITTLE_ERROR if name == "bert" else little_divergence(shipped=True)
    harms = [each.value for each in (told.held_out.error, told.held_out.difference) if each]
    assert max(harms) <= limit or report.savings[0].removed <= settling.CLOSE
    assert all(step.accepted == (step.value <= limit) for step in told.search)
    first, second = list(dict.fromkeys(event.stage for event in events))[:2]
    assert first == "Reading what is calibrated on"
    assert second.startswith("To calibrate and price takes ")
    assert surgery.load("out").num_parameters() > 0


def test_a_budget_that_a_person_gives_is_taken_whatever_it_costs(place: Path) -> None:
    save_spoken("llama", place / "llama")
    done = surgery_of("absorb-decompose", "llama", "-o", "out", "--remove", "70%", "--pairs", "vo")

    assert done.exit_code == 0, done.output
    assert "Perplexity" in headline(done)
    report = json.loads((place / "out/report.json").read_text())
    assert report["options"]["remove"] == 0.7


@pytest.mark.parametrize(
    "words",
    [("--by-weights",), ("--by-weights", "--remove", "25%"), ("--threshold-vo", "9")],
)
def test_by_weights_needs_no_words_and_says_that_nothing_was_measured(
    words: tuple[str, ...], place: Path
) -> None:
    save_tiny("llama", place / "llama")  # no tokenizer
    done = surgery_of("absorb-decompose", "llama", "-o", "out", *words)

    assert done.exit_code == 0, done.output
    assert UNMEASURED in headline(done)
    assert "calibration" not in config_of(place / "out")["surgery"]["operations"][0]["provenance"]
    assert UNMEASURED in (place / "out/README.md").read_text()
    assert UNMEASURED in to_html(from_json((place / "out/report.json").read_text()))


def test_without_words_real_input_cannot_be_read_and_the_way_out_is_named(place: Path) -> None:
    save_tiny("llama", place / "llama")
    with pytest.raises(CheckpointError) as raised:
        surgery.absorb_decompose("llama", "out")

    assert "--by-weights" in str(raised.value.hint)
    assert not (place / "out").exists()


def test_the_papers_thresholds_are_asked_for_by_name(place: Path) -> None:
    done = surgery_of(
        "absorb-decompose", "whisper-micro", "--preset", "paper", "--dry-run", "--json"
    )
    options = json.loads(done.stdout)["options"]
    assert (options["threshold_qk"], options["threshold_vo"]) == (5e-3, 6e-3)
    assert options["scope"] == "encoder"

    save_tiny("llama", place / "llama")
    with pytest.raises(UsageError, match="No paper gives thresholds"):
        surgery.absorb_decompose("llama", "out", options=surgery.Options(preset="paper"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"preset": "paper", "rule": surgery.Remove(0.1)}, "Two rules"),
        ({"by_weights": True, "rule": surgery.MaxError(0.1)}, "needs real input"),
        ({"by_weights": True, "calibrate": surgery.Calibrate("x")}, "takes no input"),
        ({"preset": "paper", "calibrate": surgery.Calibrate("x")}, "weights alone"),
        ({"preset": "book"}, "--preset"),
    ],
)
def test_contradictions_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        surgery.Options(**given)


def test_inspect_runs_nothing_unless_it_is_asked_to(place: Path) -> None:
    save_tiny("llama", place / "llama")
    report = surgery.inspect("llama")

    assert report.calibration is None and report.options["by_weights"]
    save_spoken("gpt2", place / "gpt2")
    priced = surgery.inspect("gpt2", options=surgery.Options(calibrate=surgery.Calibrate(SHIPPED)))
    assert priced.calibration is not None and priced.calibration.prices


def test_a_dry_run_says_first_how_long_it_will_take(place: Path) -> None:
    done = surgery_of("absorb-decompose", "whisper-micro", "--dry-run")

    lines = [line for line in done.stderr.splitlines() if ": done" in line]
    assert lines[0].startswith("To calibrate and price takes some seconds"), done.stderr
    assert "was estimated to take some seconds" in " ".join(done.stdout.split())
    assert (estimate_text(3), estimate_text(61)) == ("some seconds", "about 60 seconds")
    assert (estimate_text(400), estimate_text(9000)) == ("about 7 minutes", "about 2.5 hours")


def test_an_interrupted_run_resumes_with_its_statistics(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from surgery.engine.cut import calibration_run

    save_spoken("llama", place / "llama")
    options = surgery.Options(rule=surgery.Remove(0.3))
    surgery.absorb_decompose("llama", "whole", options=options)

    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        home = import_module("surgery.methods.activation_aware")
        patched.setattr(home, "activation_aware", killed)
        with pytest.raises(KeyboardInterrupt):
            surgery.absorb_decompose("llama", "out", options=options)
    assert (place / LEFT_OVER).is_dir()

    monkeypatch.setattr(calibration_run, "collect", killed)  # nothing is heard a second time
    surgery.absorb_decompose("llama", "out", options=options, resume=True)

    whole, resumed = contents(place / "whole"), contents(place / "out")
    assert whole["model.safetensors"] == resumed["model.safetensors"]


def test_what_ships_is_not_what_is_tested_on(shared: Path) -> None:
    from surgery.evaluation.fingerprints import data_fingerprints

    folder = Path(surgery.__file__).parent / "data" / "calibration" / "speech"
    ours = frozenset().union(*data_fingerprints(folder, "audio").values())
    for test in ("librispeech/test", "readings/test", "speech/test", "german/test"):
        theirs = data_fingerprints(shared / "audio" / test, "audio").values()
        assert not ours & frozenset().union(*theirs)


def test_views_of_reports_without_held_out_rows_say_where_it_was_measured(place: Path) -> None:
    save_spoken("llama", place / "llama")
    (place / "word.txt").write_text("once upon a time there was a cat and then it was gone again")
    options = surgery.Options(
        rule=surgery.Remove(0.3), calibrate=surgery.Calibrate("word.txt", trials=False)
    )
    report = surgery.absorb_decompose("llama", "out", options=options)

    assert report.calibration is not None and report.calibration.held_out is None
    assert report.calibration.in_sample
    assert "on the rows it was fitted to; none was held out" in to_card(report)
    assert "Error in sample" in to_html(report)
    shutil.rmtree(place / "out")


def test_a_folder_called_shipped_is_named_by_its_path(place: Path) -> None:
    save_spoken("gpt2", place / "gpt2")
    (place / "shipped").mkdir()
    (place / "shipped" / "text.txt").write_text("the end of it all " * 400)
    words = ("absorb-decompose", "gpt2", "--remove", "20%", "--no-trials", "--dry-run", "--json")

    for data, name in (("./shipped", "/shipped"), ("shipped", "surgery's own text")):
        told = json.loads(surgery_of(*words, "--calibrate", data).stdout)["calibration"]
        assert told["data"].endswith(name)


def test_statistics_without_trials_serve_fixed_budgets_alone(place: Path) -> None:
    save_spoken("gpt2", place / "gpt2")
    words = ("absorb-decompose", "gpt2", "--statistics", "kept", "--dry-run", "--json")
    made = json.loads(surgery_of(*words, "--calibrate", SHIPPED, "--remove", "20%").stdout)
    again = json.loads(surgery_of(*words, "--remove", "20%", "--no-trials").stdout)

    assert [site["qk"]["ranks"] for site in again["sites"]] == [
        site["qk"]["ranks"] for site in made["sites"]
    ]
    assert again["calibration"]["held_out"] is None and again["calibration"]["in_sample"]
    told = json.loads(surgery_of(*words, "--remove", "20%").stdout)["error"]
    assert "lacks trials" in told["message"] and "--no-trials" in told["hint"]
    told = json.loads(surgery_of(*words, "--no-trials").stdout)["error"]
    assert "A bound is to be kept" in told["message"]


def test_statistics_of_more_blocks_do_not_change_what_is_compared(place: Path) -> None:
    save_listener(place / "whisper")
    save_clips(place / "clips", range(6))
    told = {}
    for name, kept in (("fresh", None), ("saved", "kept")):
        calibrate = surgery.Calibrate("clips", kept, trials=False, varied=False)
        if kept is not None:
            everywhere = surgery.Options(surgery.Remove(0.2), scope="all", calibrate=calibrate)
            surgery.absorb_decompose("whisper", dry_run=True, options=everywhere)
        encoder = surgery.Options(surgery.UpTo(0.5), scope="encoder", calibrate=calibrate)
        told[name] = surgery.absorb_decompose("whisper", dry_run=True, options=encoder).calibration

    fresh, saved = told["fresh"], told["saved"]
    assert fresh is not None and saved is not None
    assert (
        (fresh.output, fresh.unit) == (saved.output, saved.unit) == ("encoder output", "relative")
    )
    assert [step.removed for step in saved.search] == [step.removed for step in fresh.search]


def test_statistics_of_rows_in_another_order_hold_nothing_out(place: Path) -> None:
    save_spoken("gpt2", place / "gpt2")
    (place / "texts").mkdir()
    texts = [
        f"{word} upon a time there was " * 30
        for word in ["one", "two", "six", "ten", "all", "cat", "dog", "sea"]
    ]
    for number, text in enumerate(texts):
        (place / "texts" / f"{number}.txt").write_text(text)
    calibrate = surgery.Calibrate("texts", "kept", trials=False)
    options = surgery.Options(rule=surgery.Remove(0.3), calibrate=calibrate)
    first = surgery.absorb_decompose("gpt2", dry_run=True, options=options).calibration
    assert first is not None and first.held_out is not None and not first.in_sample

    for number, text in enumerate(reversed(texts)):
        (place / "texts" / f"{number}.txt").write_text(text)
    again = surgery.absorb_decompose("gpt2", dry_run=True, options=options).calibration

    assert again is not None and again.held_out is None and again.in_sample


def test_a_bound_on_words_is_kept_with_a_few_long_recordings(place: Path) -> None:
    save_listener(place / "whisper")
    save_clips(place / "clips", range(2))
    calibrate = surgery.Calibrate("clips", trials=False, varied=False)
    options = surgery.Options(surgery.MaxWerIncrease(5.0), scope="encoder", calibrate=calibrate)

    report = surgery.absorb_decompose("whisper", dry_run=True, options=options)

    assert report.calibration is not None and report.calibration.search


def test_a_whisper_without_a_head_says_what_can_be_cut_of_it(place: Path) -> None:
    save_listener(place / "whisper")
    raw = config_of(place / "whisper") | {"architectures": ["WhisperModel"]}
    (place / "whisper" / "config.json").write_text(json.dumps(raw))
    options = surgery.Options(rule=surgery.Remove(0.2), scope="all")

    with pytest.raises(surgery.SurgeryError, match="no head to write words") as raised:
        surgery.absorb_decompose("whisper", "out", options=options)
    assert "--scope encoder" in str(raised.value.hint)
