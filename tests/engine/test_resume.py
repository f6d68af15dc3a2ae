"""A run that is killed leaves its target alone, and ``--resume`` makes the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from typer.testing import CliRunner

import surgery
from surgery.errors import TargetError
from surgery.events import Event
from surgery_cli.main import app
from tests.engine.children import start
from tests.engine.support import contents, save_tiny

ARGUMENTS = [
    "absorb-decompose",
    "source",
    "-o",
    "out",
    "--remove",
    "25%",
    "--by-weights",
    "--scope",
    "all",
]
JOURNAL = Path(".out.surgery-partial") / "journal.jsonl"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Whisper of 20 MB in two shards, and an uninterrupted result."""
    folder = tmp_path_factory.mktemp("resume")
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=200,
        d_model=256,
        encoder_layers=4,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=512,
        decoder_ffn_dim=512,
        num_mel_bins=8,
        max_source_positions=50,
        max_target_positions=50,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    model = transformers.WhisperForConditionalGeneration(config)
    model.save_pretrained(folder / "source", max_shard_size="12MB")
    whole = folder / "whole"
    whole.mkdir()
    (whole / "source").symlink_to(folder / "source")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(whole)
        finish()
    return folder


def finish(*more: str) -> None:
    """Run in this process, in the current folder, to the end."""
    done = CliRunner().invoke(app, [*ARGUMENTS, *more])
    assert done.exit_code == 0, done.output


def keys(journal: Path) -> list[str]:
    """Keys of the finished lines of a journal."""
    try:
        lines = journal.read_bytes().split(b"\n")[1:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line.partition(b" ")[2])["key"] for line in lines]


def kill_after(entries: int, folder: Path, *more: str) -> list[str]:
    """Run, SIGKILL once the journal has so many entries; return what it had by then."""
    running = start([*ARGUMENTS, *more], folder)
    try:
        deadline = time.monotonic() + 120
        while len(keys(folder / JOURNAL)) < entries and running.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        running.kill()
        running.join()
    return keys(folder / JOURNAL)


@pytest.fixture
def place(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh current folder with the same source, so that relative paths are the same."""
    (tmp_path / "source").symlink_to(workplace / "source")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("entries", [pytest.param(2, marks=pytest.mark.slow), 30])
def test_killed_and_resumed_gives_the_same_bytes(
    workplace: Path, place: Path, entries: int
) -> None:
    had = kill_after(entries, place)
    if (place / "out").exists():
        pytest.skip("the run was finished before it could be killed")
    assert len(had) >= entries
    assert sorted(os.listdir(place)) == [".out.surgery-partial", "source"]

    stages: list[Event] = []
    decomposed = [key for key in had if key.startswith("site:")]
    surgery.absorb_decompose(
        "source",
        "out",
        options=surgery.Options(rule=surgery.Remove(0.25), scope="all", by_weights=True),
        resume=True,
        progress=stages.append,
    )
    assert decomposed or entries < 2
    assert contents(place / "out") == contents(workplace / "whole" / "out")
    assert sorted(os.listdir(place)) == ["out", "source"]


def test_killed_again_and_again_a_run_still_arrives(workplace: Path, place: Path) -> None:
    before = 0
    for _ in range(2):
        had = kill_after(before + 12, place, "--resume")
        if (place / "out").exists():
            break
        assert len(had) > before  # every run goes further
        before = len(had)
    else:
        finish("--resume")
    assert contents(place / "out") == contents(workplace / "whole" / "out")


def test_what_was_there_stays_there_until_the_last_moment(workplace: Path, place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "precious").write_text("old")
    kill_after(30, place, "--force")
    assert contents(place / "out") == {"precious": b"old"}
    finish("--force", "--resume")
    assert contents(place / "out") == contents(workplace / "whole" / "out")


class InterruptionError(Exception):
    """What a test interrupts a run with."""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> Path:
    """A tiny source, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return save_tiny("whisper", tmp_path / "tiny", sharded=True)


def stop_at(stage: str, done: int) -> Callable[[Event], None]:
    def progress(event: Event) -> None:
        if event.stage == stage and event.done == done:
            raise InterruptionError

    return progress


OPTIONS = surgery.Options(rule=surgery.Remove(0.25), scope="all", by_weights=True)


def interrupt(stage: str = "Writing", done: int = 30) -> None:
    with pytest.raises(InterruptionError):
        surgery.absorb_decompose("tiny", "out", options=OPTIONS, progress=stop_at(stage, done))


@pytest.mark.parametrize(("stage", "done"), [("Decomposing attention", 4), ("Writing", 30)])
def test_finished_work_is_not_done_again(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, stage: str, done: int
) -> None:
    interrupt(stage, done)
    finished = keys(Path(JOURNAL))
    sites = {key for key in finished if key.startswith("site:")}
    written = {key for key in finished if key.startswith("tensor:")}
    assert sites
    assert bool(written) == (stage == "Writing")

    from surgery.checkpoint.writer import ShardWriter

    decomposed: list[Any] = []
    home = import_module("surgery.methods.absorb_decompose")
    method = home.absorb_decompose
    monkeypatch.setattr(
        home,
        "absorb_decompose",
        lambda *a, **k: decomposed.append(a) or method(*a, **k),  # type: ignore[func-returns-value]
    )
    wrote: list[str] = []
    write = ShardWriter.write

    def counted(self: ShardWriter, name: str, tensor: Any) -> None:
        if self.path.suffix == ".safetensors" and self.path.parent.name != "work":
            wrote.append(name)
        write(self, name, tensor)

    monkeypatch.setattr(ShardWriter, "write", counted)
    report = surgery.absorb_decompose("tiny", "out", options=OPTIONS, resume=True)
    assert len(decomposed) == len(report.sites) - len(sites)
    assert not {key.rpartition(":")[2] for key in written} & {*wrote}


def test_a_changed_source_is_not_resumed(tiny: Path) -> None:
    interrupt()
    was = contents(Path(".out.surgery-partial"))
    shard = min(tiny.glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(TargetError, match="did something else") as caught:
        surgery.absorb_decompose("tiny", "out", options=OPTIONS, resume=True)
    assert "source" in (caught.value.found or "")
    assert contents(Path(".out.surgery-partial")) == was
    assert not Path("out").exists()


def test_other_options_are_not_resumed(tiny: Path) -> None:
    interrupt()
    other = surgery.Options(rule=surgery.Remove(0.3), scope="all", by_weights=True)
    with pytest.raises(TargetError, match="did something else") as caught:
        surgery.absorb_decompose("tiny", "out", options=other, resume=True)
    assert "remove: 0.25, now 0.3" in (caught.value.found or "")
    surgery.absorb_decompose("tiny", "out", options=OPTIONS, resume=True)


def test_a_leftover_is_neither_used_nor_dropped_unasked(tiny: Path) -> None:
    interrupt()
    with pytest.raises(TargetError, match="was interrupted") as caught:
        surgery.absorb_decompose("tiny", "out", options=OPTIONS)
    assert "--resume" in (caught.value.hint or "") and "--force" in (caught.value.hint or "")
    surgery.absorb_decompose("tiny", "out", options=OPTIONS, force=True)
    assert sorted(os.listdir()) == ["out", "tiny"]


def test_what_is_done_already_is_not_done_again(tiny: Path) -> None:
    first = surgery.absorb_decompose("tiny", "out", options=OPTIONS)
    was = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    arguments = ["tiny" if word == "source" else word for word in ARGUMENTS]
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0
    assert "Already done" in again.output
    assert {path: path.stat().st_mtime_ns for path in Path("out").iterdir()} == was
    assert sorted(os.listdir()) == ["out", "tiny"]
    report = surgery.absorb_decompose("tiny", "out", options=OPTIONS)
    assert report.savings == first.savings


def cut_short(result: Path) -> None:
    shard = min(result.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-9])


def with_another_name(result: Path) -> None:
    shard = min(result.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes().replace(b"encoder.layers.0.", b"encoder.layers.9.", 1))


def with_a_list_for_provenance(result: Path) -> None:
    config = json.loads((result / "config.json").read_text())
    config["surgery"]["operations"][0]["provenance"] = []
    (result / "config.json").write_text(json.dumps(config))


def nested_too_deep(result: Path) -> None:
    (result / "config.json").write_text("[" * 50_000)


@pytest.mark.parametrize(
    "damage", [cut_short, with_another_name, with_a_list_for_provenance, nested_too_deep]
)
def test_a_damaged_result_is_not_called_done(damage: Callable[[Path], None], tiny: Path) -> None:
    surgery.absorb_decompose("tiny", "out", options=OPTIONS)
    damage(Path("out"))
    with pytest.raises(TargetError, match="not empty"):
        surgery.absorb_decompose("tiny", "out", options=OPTIONS)


def test_force_replaces_and_nothing_else_does(tiny: Path) -> None:
    Path("out").mkdir()
    Path("out/precious").write_text("old")
    with pytest.raises(TargetError, match="not empty") as caught:
        surgery.absorb_decompose("tiny", "out", options=OPTIONS)
    assert "--force" in (caught.value.hint or "")
    assert contents(Path("out")) == {"precious": b"old"}
    with pytest.raises(TargetError, match="not empty"):
        surgery.absorb_decompose("tiny", "out", options=OPTIONS, resume=True)
    surgery.absorb_decompose("tiny", "out", options=OPTIONS, force=True)
    assert "precious" not in contents(Path("out"))
    assert sorted(os.listdir()) == ["out", "tiny"]


def test_a_merge_is_resumed_to_the_same_bytes(tiny: Path) -> None:
    surgery.absorb_decompose("tiny", "out", options=OPTIONS)
    surgery.merge("out", "whole")
    shutil.copytree("whole", "reference")
    shutil.rmtree("whole")
    with pytest.raises(InterruptionError):
        surgery.merge("out", "whole", progress=stop_at("Writing", 40))
    assert not Path("whole").exists()
    surgery.merge("out", "whole", resume=True)
    assert contents(Path("whole")) == contents(Path("reference"))


def test_two_runs_do_not_write_one_result(tiny: Path) -> None:
    met: list[TargetError] = []

    def progress(event: Event) -> None:
        if event.stage == "Writing" and not met:
            with pytest.raises(TargetError, match="Another run") as caught:
                surgery.absorb_decompose("tiny", "out", options=OPTIONS)
            met.append(caught.value)

    surgery.absorb_decompose("tiny", "out", options=OPTIONS, progress=progress)
    assert met
    assert Path("out/report.json").exists()


@pytest.mark.usefixtures("no_pictures")
def test_an_interrupted_split_goes_on_to_the_same_bytes(place: Path) -> None:
    options: dict[str, Any] = {"rank": 8, "targets": ["q", "o", "down"]}
    surgery.split("source", "whole", **options)

    def stop(event: Event) -> None:
        if event.stage == "Writing" and event.done == event.total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surgery.split("source", "out", progress=stop, **options)
    assert not (place / "out").exists()
    with pytest.raises(TargetError, match="interrupted"):
        surgery.split("source", "out", **options)
    with pytest.raises(TargetError, match="something else"):
        surgery.split("source", "out", resume=True, **{**options, "rank": 4})
    surgery.split("source", "out", resume=True, **options)
    whole, resumed = contents(place / "whole"), contents(place / "out")
    weights = [name for name in whole if name.endswith(".safetensors")]
    assert weights
    assert all(whole[name] == resumed[name] for name in weights)
