"""Code that older checkpoints carry is renewed, and where it is old somebody says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import surgery
from surgery.carried.remote_code import FILE, runtime_of
from surgery.errors import CheckpointError, SurgeryWarning, UsageError
from surgery.runtime.releases import RUNTIME
from surgery_cli.main import app
from tests.engine.support import config_of, run, save_tiny

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def pruned(tmp_path: Path) -> Path:
    """A checkpoint whose code is of a release that did not count its runtimes."""
    save_tiny("llama", tmp_path / "source")
    rule = surgery.Remove(0.3)
    surgery.absorb_decompose(
        tmp_path / "source", tmp_path / "out", options=surgery.Options(rule=rule, by_weights=True)
    )
    code = tmp_path / "out" / FILE
    code.write_text(code.read_text().replace("Runtime: 2\n", ""))
    return tmp_path / "out"


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_refresh_renews_the_code_and_nothing_else(pruned: Path) -> None:
    before = files(pruned)

    assert surgery.refresh(pruned)

    after = files(pruned)
    assert runtime_of(after[FILE].decode()) == RUNTIME
    assert {**before, FILE: b""} == {**after, FILE: b""}
    assert not surgery.refresh(pruned)
    remote = AutoModelForCausalLM.from_pretrained(pruned, trust_remote_code=True)
    assert torch.equal(run(remote.float()), run(surgery.load(pruned)))


def test_refresh_gives_code_to_a_checkpoint_that_had_none(pruned: Path) -> None:
    expected = config_of(pruned)
    (pruned / FILE).unlink()
    bare = {name: value for name, value in expected.items() if name != "auto_map"}
    (pruned / "config.json").write_text(json.dumps(bare))

    assert surgery.refresh(pruned)

    assert (pruned / FILE).is_file()
    assert config_of(pruned) == expected


def test_a_load_names_old_code_once_and_says_what_to_do(pruned: Path) -> None:
    with pytest.warns(SurgeryWarning, match=f"surgery refresh {pruned}") as caught:
        surgery.load(pruned)
    assert len(caught) == 1

    surgery.refresh(pruned)
    surgery.load(pruned)  # a warning would be an error here


def test_the_command_tells_a_note_without_code(pruned: Path, tmp_path: Path) -> None:
    with pytest.warns(SurgeryWarning):  # pytest stands before the command line's own way
        surgery.load(pruned)
    shown = CliRunner().invoke(app, ["refresh", str(pruned)])
    again = CliRunner().invoke(app, ["refresh", str(pruned), "--json"])

    assert shown.exit_code == 0 and "code renewed" in " ".join(shown.output.split())
    assert json.loads(again.output) == {"refreshed": {str(pruned): False}}


def test_newer_code_is_left_alone(pruned: Path) -> None:
    code = pruned / FILE
    code.write_text(code.read_text().replace("SPDX", f"Runtime: {RUNTIME + 1}\n\nSPDX", 1))
    before = files(pruned)

    with pytest.raises(UsageError, match="newer code"):
        surgery.refresh(pruned)

    assert files(pruned) == before


def test_what_carries_no_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="carries no code"):
        surgery.refresh(save_tiny("llama", tmp_path / "dense"))
    with pytest.raises(CheckpointError):
        surgery.refresh(tmp_path / "nowhere")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter.json").write_text("{}")
    with pytest.raises(UsageError, match="adapter"):
        surgery.refresh(tmp_path / "adapter")


@pytest.mark.parametrize("lost", ["operations", "sites", "method", "tensor"])
def test_code_is_not_renewed_for_what_cannot_be_run(pruned: Path, lost: str) -> None:
    config = config_of(pruned)
    if lost == "tensor":
        tensors = load_file(pruned / "model.safetensors")
        del tensors["model.layers.1.self_attn.v_proj.weight"]
        save_file(tensors, pruned / "model.safetensors")
    elif lost == "operations":
        del config["surgery"][lost]
    else:
        del config["surgery"]["operations"][0][lost]
    (pruned / "config.json").write_text(json.dumps(config))
    before = files(pruned)

    with pytest.raises(CheckpointError):
        surgery.refresh(pruned)

    assert files(pruned) == before


def test_a_file_that_cannot_be_written_stays_whole(
    pruned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(pruned)

    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(surgery.SurgeryError, match="space"):
        surgery.refresh(pruned)

    assert files(pruned) == before
