"""An interrupted run goes on to the same numbers, and nothing half-written is ever a result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import surgery
from surgery.checkpoint.commit import staging_path
from surgery.errors import SurgeryError, TargetError
from surgery.events import Event
from surgery.report.serialise import from_json, to_json
from surgery.training.trainer import STAGE, latest_state
from tests.engine.support import contents, tensors_of
from tests.training.runs import save_model, tune, write_text

pytestmark = pytest.mark.usefixtures("quick")

# GPT-2 drops out at random, so that random numbers must go on where they were, too; six steps of
# eight rows cross from one pass over 30 rows into the next, and a batch is not whole.
ASKED: dict[str, Any] = {
    "train": "sorsa",
    "preparation": surgery.Preparation(rank=2, targets=("o", "up")),
    "steps": 6,
    "batch": 8,
    "micro_batch": 4,
    "schedule": "cosine",
    "warmup": 0.34,
    "save_every": 2,
    "held_out": 0.1,
    "evaluate_every": 3,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny GPT-2 and a text."""
    folder = tmp_path_factory.mktemp("made")
    save_model("gpt2", folder / "model")
    write_text(folder / "text.jsonl", rows=33)
    return folder


@pytest.fixture(scope="module")
def whole(made: Path) -> Any:
    """A run that nobody stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("surgery.report.html.to_html", lambda report: "<html></html>")
        return tune(made / "model", made / "whole", made / "text.jsonl", **ASKED)


class StoppedError(Exception):
    """Somebody pulled the plug."""


def stop_after(step: int) -> Callable[[Event], None]:
    def progress(event: Event) -> None:
        if event.stage == STAGE and event.done == step:
            raise StoppedError

    return progress


def interrupted(made: Path, out: Path, step: int, **changed: Any) -> None:
    with pytest.raises(StoppedError):
        tune(
            made / "model",
            out,
            made / "text.jsonl",
            **ASKED | changed | {"progress": stop_after(step)},
        )


@pytest.mark.parametrize(("step", "state"), [(5, 4), (1, None)])
def test_a_resumed_run_ends_where_one_that_was_not_stopped_does(
    step: int, state: int | None, made: Path, whole: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    interrupted(made, out, step)
    assert not out.exists()
    saved = latest_state(staging_path(out) / "training")
    assert (saved and saved.name) == (state and f"checkpoint-{state}")

    again = tune(made / "model", out, made / "text.jsonl", resume=True, **ASKED)
    assert again.tuning is not None and again.tuning.resumed_from == state
    assert contents(out)["adapter.safetensors"] == contents(made / "whole")["adapter.safetensors"]
    for told in ("steps", "held_out", "moved", "examples_seen", "tokens_seen"):
        assert getattr(again.tuning, told) == getattr(whole.tuning, told), told
    assert not staging_path(out).exists()
    assert contents(out).keys() == contents(made / "whole").keys()
    assert not any("training" in name or "journal" in name for name in contents(out))


def test_the_same_run_is_already_done_and_another_is_refused(
    made: Path, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(made / "whole")
    monkeypatch.setattr("surgery.training.tune.learn", None)  # nothing may be trained
    model, out, data = made / "model", made / "whole", made / "text.jsonl"
    report = tune(model, out, data, **ASKED)
    assert report.notes[0].startswith("Already done")
    assert report.tuning == from_json(to_json(whole)).tuning  # numbers there are rounded
    for changed in ({"steps": 7}, {"seed": 1}, {"penalty": 0.1}):
        with pytest.raises(TargetError, match="not empty"):
            tune(model, out, data, **ASKED | changed)
    with pytest.raises(TargetError, match="not empty"):
        tune(model, out, write_text(made / "other.jsonl", rows=40), **ASKED)
    assert contents(made / "whole") == before


def test_only_the_same_run_goes_on(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(made, out, 3)
    model, data = made / "model", made / "text.jsonl"
    left = contents(staging_path(out))
    with pytest.raises(TargetError, match="was interrupted") as refused:
        tune(model, out, data, **ASKED)
    assert "--resume" in str(refused.value.hint)
    for changed in ({"learning_rate": 1e-3}, {"batch": 16}, {"train": "pissa"}):
        with pytest.raises(TargetError, match="something else"):
            tune(model, out, data, **ASKED | changed, resume=True)
    with pytest.raises(TargetError, match="something else") as refused:
        other = write_text(tmp_path / "text.jsonl", rows=40)
        tune(model, out, other, **ASKED, resume=True)
    assert "listing" in str(refused.value.found)
    assert contents(staging_path(out)) == left
    assert not out.exists()
    # With --force the work is dropped, and the run begins anew.
    report = tune(model, out, data, **ASKED | {"steps": 1, "force": True})
    assert report.tuning is not None and report.tuning.resumed_from is None
    assert not staging_path(out).exists()


def test_a_failure_leaves_the_old_result(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("old")
    with pytest.raises(SurgeryError, match="not a number"):
        tune(
            made / "model",
            out,
            made / "text.jsonl",
            train="pissa",
            force=True,
            learning_rate=1e30,
            clip=0.0,
        )
    assert contents(out) == {"precious": b"old"}


def test_a_state_that_was_not_finished_is_not_gone_on_from(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(made, out, 5)
    states = staging_path(out) / "training"
    (states / "checkpoint-4" / "trainer_state.json").write_text('{"global_st')
    saved = latest_state(states)
    assert saved is not None and saved.name == "checkpoint-2"
    report = tune(made / "model", out, made / "text.jsonl", resume=True, **ASKED)
    assert report.tuning is not None and report.tuning.resumed_from == 2
    ours, others = tensors_of(out), tensors_of(made / "whole")
    assert all(bool((ours[name] == others[name]).all()) for name in others)
