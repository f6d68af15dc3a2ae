"""An adapter that does not fit, or is not whole, is refused with the place and the way out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

import surgery
from surgery.checkpoint.resolve import resolve
from surgery.errors import CheckpointError, ModelNotFoundError, SurgeryError, UsageError
from surgery.stored.adapter import read_adapter, write_adapter
from surgery.stored.adapter_base import open_base
from surgery_cli.main import app
from tests.engine.support import contents, save_tiny
from tests.training.adapters import add_parts, moved

PATH = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny LLaMA and an adapter on it."""
    folder = tmp_path_factory.mktemp("made")
    save_tiny("llama", folder / "base")
    add_parts(folder / "tuned", "pissa", folder / "base", "norm.weight")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """The same folder, to be spoiled."""
    return shutil.copytree(made, tmp_path / "made")


def edit(adapter: Path, key: str, value: Any) -> None:
    """Set a field of adapter.json, by its path."""
    document = json.loads((adapter / "adapter.json").read_text())
    *above, last = key.split("/")
    inner = document
    for each in above:
        inner = inner[each]
    inner[last] = value
    (adapter / "adapter.json").write_text(json.dumps(document))


def retensor(adapter: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(adapter / "adapter.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter.safetensors")


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("format_version", "1", "format_version"),
        ("format_version", True, "format_version"),
        ("base", [], "base"),
        ("base/name", "", "base.name"),
        ("base/path", 3, "base.path"),
        ("base/path", "/etc", "base.path"),
        ("base/path", "C:models", "base.path"),
        ("base/path", "\\\\host\\models", "base.path"),
        ("base/sha256", {}, "base.sha256"),
        ("base/sha256", {"model.safetensors": "12"}, "base.sha256.model.safetensors"),
        ("base/sha256/model.safetensors", "g" * 64, "base.sha256.model.safetensors"),
        ("operation", "pissa", "operation"),
        ("operation/method", None, "operation.method"),
        ("operation/method", "lora", "operation.method"),
        ("operation/method", "absorb-decompose", "operation.method"),
        ("operation/sites", {}, "operation.sites"),
        (f"operation/sites/{PATH}", {"rank": 2}, f"operation.sites[{PATH!r}].scale"),
        ("operation/options", [], "operation.options"),
        ("trained", None, "trained"),
        ("trained/method", 1, "trained.method"),
        ("trained/parameters", 0, "trained.parameters"),
        ("options", "none", "options"),
        ("provenance", None, "provenance"),
    ],
)
def test_a_malformed_field_is_named(here: Path, key: str, value: Any, where: str) -> None:
    edit(here / "tuned", key, value)
    with pytest.raises(CheckpointError) as caught:
        read_adapter(here / "tuned")
    assert caught.value.where == f"{here / 'tuned' / 'adapter.json'}: {where}"
    assert caught.value.found and caught.value.expected


def test_a_newer_format_is_refused(here: Path) -> None:
    edit(here / "tuned", "format_version", 2)
    edit(here / "tuned", "operation", "of a kind that is still to be invented")
    with pytest.raises(CheckpointError, match="newer format"):
        surgery.load(here / "tuned")


def test_files_that_are_missing_or_cut_short_are_refused(here: Path) -> None:
    weights = here / "tuned" / "adapter.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4])
    with pytest.raises(CheckpointError, match="truncated"):
        surgery.merge(here / "tuned")
    weights.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        surgery.merge(here / "tuned")
    (here / "tuned" / "adapter.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        surgery.load(here / "tuned")


def set_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"][3] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_nan, "not finite"),
        (lambda t: t.update({"model.layers.7.nothing": torch.ones(2)}), "nothing in the base"),
        (lambda t: t.update({f"{PATH}.sorsa_s": torch.ones(2)}), "nothing in the base"),
        (lambda t: t.update({"model.norm.weight": torch.ones(3)}), "another shape"),
        (lambda t: t.update({"model.norm.weight": torch.ones(32).int()}), "no trained weight"),
        (lambda t: t.pop(f"{PATH}.pissa_a"), "lacks a tensor"),
        (lambda t: t.update({f"{PATH}.pissa_a": torch.ones(2, 3)}), "place|does not fit"),
        (lambda t: t.clear(), "empty|lacks a tensor"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    here: Path, change: Callable[[dict[str, torch.Tensor]], Any], message: str
) -> None:
    retensor(here / "tuned", change)
    with pytest.raises(CheckpointError, match=message):
        surgery.load(here / "tuned")
    with pytest.raises(CheckpointError, match=message):
        surgery.merge(here / "tuned", here / "merged")
    assert not (here / "merged").exists()


def test_what_cannot_be_read_is_not_written(here: Path, tmp_path: Path) -> None:
    with resolve(str(here / "base")) as base:
        good = moved(base, "norm.weight")
        for bad in (
            {**good, "model.norm.weight": torch.ones(3)},
            {**good, "other": torch.ones(3)},
            {**good, "model.norm.weight": torch.full((32,), torch.inf)},
            {},
        ):
            with pytest.raises(CheckpointError):
                write_adapter(tmp_path, bad, base=base, method="norms")
            assert not (tmp_path / "adapter.json").exists()


def test_a_map_takes_no_second_small_part(here: Path) -> None:
    base = surgery.merge(here / "tuned", here / "first", steps=0)
    (here / "again").mkdir()
    operation = json.loads((here / "tuned" / "adapter.json").read_text())["operation"]
    with (
        resolve(str(base)) as source,
        pytest.raises(CheckpointError, match="in the base already"),
    ):
        tensors = {name: source.tensor(name) for name in source.infos if "pissa" in name}
        write_adapter(here / "again", tensors, base=source, method="pissa", operation=operation)


def test_another_base_is_refused_and_both_hashes_are_shown(here: Path) -> None:
    save_tiny("llama", here / "other", seed=1)
    digests = []
    for each in ("base", "other"):
        with resolve(str(here / each)) as source:
            digests += source.sha256().values()
    for attempt in (
        lambda: surgery.load(here / "tuned", base=here / "other"),
        lambda: surgery.merge(here / "tuned", here / "out", base=here / "other"),
    ):
        with pytest.raises(CheckpointError, match="not the base") as caught:
            attempt()
        assert digests[0] in str(caught.value.expected) and digests[1] in str(caught.value.found)

    # The place is right, and what lies there has changed since.
    weights = here / "base" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="changed"):
        surgery.verify(here / "other", here / "tuned", weights_only=True)


def test_a_base_that_is_gone_is_asked_for(here: Path) -> None:
    shutil.rmtree(here / "base")
    with pytest.raises(ModelNotFoundError, match="not where it was") as caught:
        surgery.load(here / "tuned")
    assert "../base" in str(caught.value.found) and "--base" in str(caught.value.hint)
    edit(here / "tuned", "base/path", None)
    with pytest.raises(ModelNotFoundError, match="not where it was"):
        open_base(read_adapter(here / "tuned"))
    edit(here / "tuned", "base/path", "../tuned")  # an adapter is no base
    with pytest.raises(CheckpointError, match="This is an adapter"):
        surgery.load(here / "tuned")


def test_a_result_never_replaces_the_adapter_or_its_base(here: Path) -> None:
    before = contents(here)
    for target in ("tuned", "base", "."):
        with pytest.raises(UsageError, match="would replace"):
            surgery.merge(here / "tuned", here / target, force=True)
    assert contents(here) == before


def test_whoever_needs_a_checkpoint_says_to_merge_first(made: Path) -> None:
    tuned = made / "tuned"
    for attempt in (
        lambda: surgery.split(tuned, made / "x", rank=2),
        lambda: surgery.reparam(tuned, made / "x", method="hra"),
        lambda: surgery.absorb_decompose(tuned, made / "x"),
        lambda: surgery.inspect(tuned),
        lambda: surgery.inspect(tuned / "adapter.safetensors"),
    ):
        with pytest.raises(CheckpointError, match="adapter") as caught:
            attempt()
        assert caught.value.hint == f"merge it into its base first: surgery merge {tuned}"


def command(*words: object, fails: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == fails, result.output
    return result


def test_the_command_line_merges_with_a_base(here: Path) -> None:
    (here / "base").rename(here / "moved")
    assert "--base" in command("merge", here / "tuned", "-o", here / "out", fails=1).output
    words = ["merge", here / "tuned", "--base", here / "moved", "-o", here / "out"]
    assert "Merged checkpoint" in command(*words, "--steps", "0").output
    command(*words, "--force")
    assert "surgery" not in json.loads((here / "out" / "config.json").read_text())
    card = (here / "out" / "README.md").read_text()
    assert "tuned" in card and "Made from: base" in card

    assert (
        "Only an adapter has a base"
        in command("merge", here / "out", "--base", here / "moved", fails=2).output
    )
    refused = command("merge", here / "tuned", "--base", here / "moved", "--steps", "3", fails=2)
    assert "0 to 1: pissa" in refused.output


def test_a_checkpoint_is_merged_by_one_step_at_least(here: Path) -> None:
    whole = surgery.merge(here / "tuned", here / "whole", steps=0)
    with pytest.raises(SurgeryError, match="not as many"):
        surgery.merge(whole, here / "x", steps=0)
