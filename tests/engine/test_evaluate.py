"""Evaluation end to end: kinds of model, data that is refused, data that leaked, the document."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

import surgery
from surgery.engine.measure.candidates import distinct_names
from surgery.errors import CheckpointError, SurgeryError, TargetError, UsageError
from surgery.evaluation.audio import SpeechFolder
from surgery.evaluation.data import open_texts
from surgery.evaluation.fingerprints import data_fingerprints, sketch
from surgery.evaluation.results import SCHEMA, from_json
from surgery.events import Event
from surgery.micro.assets import DIRECTORY
from surgery_cli.evaluation import evaluation_view
from tests.engine.spoken import CLIPS, save_spoken
from tests.engine.support import config_of, save_tiny

STORY = "once upon a time there was a little cat who lived in a house by the sea and sang"


def damage(directory: Path, target: Path, tensor: str) -> Path:
    """Copy a model, one tensor scaled."""
    shutil.copytree(directory, target)
    weights = load_file(target / "model.safetensors")
    [name] = [name for name in weights if name.endswith(tensor)]
    weights[name] = (weights[name].float() * 1.3).to(weights[name].dtype)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def calibrated(directory: Path, data: Path, kind: str) -> None:
    """Put into config.json what a calibrated operation leaves there."""
    prints = data_fingerprints(data, kind)  # type: ignore[arg-type]
    samples = sketch(each for own in prints.values() for each in own)
    config = config_of(directory)
    record = {"name": "some/data", "kind": kind, "samples": samples, "statistics_sha256": "0"}
    operation = {
        "method": "absorb-decompose",
        "options": {},
        "provenance": {"calibration": record},
        "sites": {},
    }
    config["surgery"] = {"format_version": 1, "operations": [operation]}
    (directory / "config.json").write_text(json.dumps(config))


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    path = tmp_path / "stories.txt"
    path.write_text("".join(f"{STORY * 3} number {chr(97 + n)}\n" for n in range(12)))
    return path


@pytest.fixture(scope="module")
def whispers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The embedded Whisper and a copy that hears a little differently."""
    folder = tmp_path_factory.mktemp("whispers")
    return ["whisper-micro", str(damage(DIRECTORY, folder / "off", "encoder.layers.1.fc1.weight"))]


def test_whispers_side_by_side(whispers: list[str], tmp_path: Path) -> None:
    events: list[Event] = []
    found = surgery.evaluate(
        [*whispers, "whisper-micro"],
        "whisper-micro",  # the clips it comes with
        limit=6,
        resamples=50,
        batch=4,
        output=tmp_path / "evaluation.json",
        progress=events.append,
    )
    assert found.kind == "speech"
    assert [model.name for model in found.models] == ["whisper-micro", "off", "whisper-micro (2)"]
    [data] = found.data
    assert (data.name, data.samples, data.resampled) == ("whisper_micro/test", 6, "recordings")
    first, off, same = (found.row(model.name, data.name) for model in found.models)
    seconds = sum(clip.size for clip in SpeechFolder.open(CLIPS, limit=6).audio()) / 16_000
    assert data.amount == pytest.approx(seconds)
    assert set(first.figures) == {"wer", "time", "encoder_time"}
    assert first.changes == first.layers == {}
    assert set(off.figures) - set(first.figures) == {
        "same_text",
        "encoder_error",
        "encoder_error_window",
        "output_error",
        "kl_divergence",
        "time_ratio",
        "encoder_time_ratio",
    }
    assert off.figures["encoder_error"].value > 0 == same.figures["encoder_error"].value
    assert set(off.changes) == {"wer"}
    assert same.layers == {"encoder": [0.0] * 4, "decoder": [0.0] * 2}
    assert same.figures["same_text"].value == 100.0
    assert not any(row.leaked for row in found.rows)
    assert {event.stage for event in events} >= {"Measuring on whisper_micro/test"}
    assert (events[-1].done, events[-1].total) == (6, 6)

    text = (tmp_path / "evaluation.json").read_text()
    assert text == found.to_json() == from_json(text).to_json()
    document = json.loads(text)
    assert document["schema"] == SCHEMA
    assert set(document["metrics"]) == set(off.figures)
    assert all(metric["about"] for metric in document["metrics"].values())
    with pytest.raises(CheckpointError, match="schema 9"):
        from_json(text.replace(f'"schema": {SCHEMA}', '"schema": 9'))
    with pytest.raises(KeyError):
        found.row("nobody", data.name)


def test_recordings_without_words_are_compared_all_the_same(
    whispers: list[str], tmp_path: Path
) -> None:
    for clip in sorted(CLIPS.glob("*.flac"))[:2]:
        shutil.copy(clip, tmp_path)
    found = surgery.evaluate(whispers, tmp_path, resamples=10)
    row = found.rows[1]
    assert {"same_text", "encoder_error"} <= set(row.figures)
    assert "wer" not in row.figures and not row.changes


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2-unprefixed"])
def test_text_models_side_by_side(name: str, tmp_path: Path, stories: Path) -> None:
    model = save_spoken(name, tmp_path / "model")
    tensor = {"llama": "layers.1.mlp.down_proj.weight", "bert": "layer.1.output.dense.weight"}
    other = damage(model, tmp_path / "other", tensor.get(name, "h.1.mlp.c_proj.weight"))
    found = surgery.evaluate([model, model, other], [stories], limit=11, resamples=20)
    assert found.kind == ("text" if name == "llama" else "embedding")
    assert (found.data[0].samples, found.data[0].resampled) == (11, "documents")
    same, moved = found.rows[1:]
    assert same.layers == {"layers": [0.0, 0.0]}
    assert moved.layers["layers"][0] == 0.0 < moved.layers["layers"][1]
    if name == "llama":
        assert same.changes["perplexity"].value == same.changes["perplexity"].high == 0.0
        assert moved.figures["kl_divergence"].value > 0 == same.figures["kl_divergence"].value
        assert {"bits_per_byte", "output_error", "same_token"} <= set(moved.figures)
    else:
        assert same.figures["pooled_distance"].value == pytest.approx(0.0, abs=1e-12)
        assert moved.figures["embedding_error"].value > 0
        assert not moved.changes


def test_questions_are_answered_beside_text(tmp_path: Path, stories: Path) -> None:
    model = save_spoken("llama", tmp_path / "model")
    other = damage(model, tmp_path / "other", "layers.1.mlp.down_proj.weight")
    asked = tmp_path / "asked.jsonl"
    rows = [{"question": f"q {i}", "choices": ["yes", "no it is not"], "answer": 0}
            for i in range(6)]  # fmt: skip
    asked.write_text("\n".join(map(json.dumps, rows)))
    found = surgery.evaluate([model, other], [asked, stories], limit=5, resamples=20)
    data = found.data[0]
    assert (data.samples, data.resampled, data.units, data.asks) == (5, "questions", [], True)
    row = found.row(found.models[1].name, data.name)
    assert {"accuracy", "accuracy_raw", "time", "time_ratio"} == set(row.figures)
    assert {"accuracy", "accuracy_raw"} == set(row.changes)
    assert from_json(found.to_json()) == from_json(from_json(found.to_json()).to_json())
    shown = Console(width=80, record=True)
    shown.print(evaluation_view(found))
    assert "Multiple choice" in (text := shown.export_text())
    assert "5 questions" in text
    with pytest.raises(UsageError, match="questions with choices"):
        surgery.evaluate([model], [asked], text="lines")
    silent = save_spoken("bert", tmp_path / "bert")
    with pytest.raises(UsageError, match="how likely a choice"):
        surgery.evaluate([silent], [asked])


WIKI = " = Title = \n\n" + " ".join(["a long paragraph of words"] * 12) + "\n = = Part = = \n"
"""Articles with headings: a line of it does not stand for itself."""


@pytest.mark.parametrize(
    ("division", "samples", "units"),
    [
        (None, 1, ["file"]),
        ("documents", 1, ["file"]),
        ("lines", 30, ["line"]),
        ("running", 1, ["file"]),
    ],
)
def test_text_divides_as_it_is_told_to(
    tmp_path: Path, division: Any, samples: int, units: list[str]
) -> None:
    model = save_spoken("llama", tmp_path / "model")
    (tmp_path / "wiki.test.raw").write_text(WIKI * 10)
    events: list[Event] = []
    found = surgery.evaluate(
        model, tmp_path / "wiki.test.raw", text=division, resamples=5, progress=events.append
    )
    assert (found.data[0].samples, found.data[0].units) == (samples, units)
    assert found.settings["text"] == (division or "documents")
    assert found.settings["context"] == 64
    assert json.loads(found.to_json())["data"][0]["units"] == units
    # A long text tells how far it is, too.
    done = [event.done for event in events if event.stage.startswith("Measuring on")]
    assert done == sorted(done) and len(set(done)) > 10 and done[-1] == samples


@pytest.mark.parametrize(("division", "samples"), [("documents", 2), ("lines", 2), ("running", 1)])
def test_rows_are_documents_unless_the_text_runs(
    tmp_path: Path, division: Any, samples: int
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps({'text': STORY})}\n{json.dumps({'text': 'short'})}\n")
    opened = open_texts(path, division=division)
    assert len(opened) == samples
    assert opened.units == (("file",) if samples == 1 else ("row",))


def test_data_that_a_model_was_calibrated_on_is_refused_or_labelled(
    tmp_path: Path, stories: Path
) -> None:
    model = save_spoken("llama", tmp_path / "model")
    tuned = Path(shutil.copytree(model, tmp_path / "tuned"))
    known, other = tmp_path / "known.txt", tmp_path / "other.txt"
    known.write_text(stories.read_text().splitlines()[2] + "\n" + "something else " * 20 + "\n")
    other.write_text("".join(f"{letter * 300}\n" for letter in "abcdefghijkl"))
    calibrated(tuned, known, "text")
    with pytest.raises(UsageError, match="calibrated") as refused:
        surgery.evaluate([model, tuned], [other, stories])
    assert "1 of 12" in str(refused.value) and "document 3" in str(refused.value)
    assert "--allow-leakage" in str(refused.value)

    with pytest.raises(UsageError, match="calibrated"):  # re-wrapped, it is the same story
        copied = tmp_path / "renamed.jsonl"
        copied.write_text(json.dumps({"text": stories.read_text().splitlines()[2]}) + "\n")
        surgery.evaluate(tuned, copied)

    found = surgery.evaluate([model, tuned], [other, stories], allow_leakage=True, resamples=5)
    leaked = {(row.model, row.data) for row in found.rows if row.leaked}
    assert leaked == {("tuned", f"{tmp_path.name}/stories.txt")}
    assert any("tuned was calibrated" in note for note in found.notes)
    assert not any(row.leaked for row in surgery.evaluate([tuned], other, resamples=5).rows)


def test_recordings_leak_whatever_they_are_called(whispers: list[str], tmp_path: Path) -> None:
    tuned = Path(shutil.copytree(whispers[1], tmp_path / "tuned"))
    (tmp_path / "calib").mkdir()
    clips = sorted(CLIPS.glob("*.flac"))[:2]
    shutil.copy(clips[1], tmp_path / "calib" / "renamed.flac")
    calibrated(tuned, tmp_path / "calib", "audio")
    with pytest.raises(UsageError, match=clips[1].name):
        surgery.evaluate(["whisper-micro", tuned], CLIPS, limit=3)


def test_models_that_do_not_belong_together_are_refused(tmp_path: Path, stories: Path) -> None:
    llama = save_spoken("llama", tmp_path / "llama")
    with pytest.raises(UsageError, match="different families"):
        surgery.evaluate([llama, save_spoken("gpt2", tmp_path / "gpt2")], stories)
    with pytest.raises(UsageError, match="same tokens"):
        letters = save_spoken("llama", tmp_path / "letters", letters="zyx")
        surgery.evaluate([llama, letters], stories)
    with pytest.raises(UsageError, match="some do not"):
        headless = save_spoken("gpt2-unprefixed", tmp_path / "headless")
        surgery.evaluate([tmp_path / "gpt2", headless], stories)
    with pytest.raises(CheckpointError, match="tokenizer"):
        surgery.evaluate(save_tiny("llama", tmp_path / "mute"), stories)


def test_a_whisper_without_a_text_head_is_refused(tmp_path: Path) -> None:
    model = Path(shutil.copytree(DIRECTORY, tmp_path / "headless"))
    config = config_of(model) | {"architectures": ["WhisperModel"]}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="text head"):
        surgery.evaluate(model, CLIPS, limit=1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"models": []}, "at least one model"),
        ({"data": []}, "at least one set"),
        ({"data": "text.txt"}, "this is text"),
        ({"data": "nowhere"}, "no such folder"),
        ({"data": [CLIPS, CLIPS]}, "named twice"),
        ({"limit": 0}, "limit must be"),
        ({"text": "lines"}, "Whisper is measured on recordings"),
        ({"text": "verses"}, "documents, lines, running"),
        ({"batch": 0}, "batch must be"),
        ({"resamples": 0}, "resamples must be"),
        ({"device": "abacus"}, "no such device"),
        ({"device": f"cuda:{torch.cuda.device_count()}"}, "no such device"),
        ({"output": "nowhere/evaluation.json"}, "cannot be written"),
        ({"output": "."}, "cannot be written"),
        ({"language": "de", "limit": 1}, "English only"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_requests_are_refused(
    options: dict[str, Any], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(STORY)
    asked: dict[str, Any] = {"models": ["whisper-micro"], "data": [CLIPS]} | options
    with pytest.raises(SurgeryError, match=expected) as caught:
        surgery.evaluate(asked.pop("models"), asked.pop("data"), **asked)
    assert isinstance(caught.value, (UsageError, TargetError)) or options["data"] == "nowhere"


def test_text_models_do_not_hear(tmp_path: Path) -> None:
    model = save_spoken("llama", tmp_path / "model")
    with pytest.raises(UsageError, match="this is a recording"):
        surgery.evaluate(model, next(CLIPS.glob("*.flac")))


def test_models_are_called_by_what_tells_them_apart() -> None:
    assert distinct_names(["openai/whisper-tiny", "a/pruned", "./b/pruned"]) == [
        "whisper-tiny",
        "a/pruned",
        "b/pruned",
    ]
    assert distinct_names(["x", "x", "y/x"]) == ["x", "x (2)", "y/x"]
    assert distinct_names(["/a/x", "/a/x"]) == ["x", "x (2)"]
    assert distinct_names(["/x", "/a/x"]) == ["/x", "a/x"]
    assert distinct_names(["."]) == [Path.cwd().name]
