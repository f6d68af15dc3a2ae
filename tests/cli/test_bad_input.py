"""Bad input through the command line: a clear error each, and an untouched target."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import surgery
from surgery_cli.main import app
from tests.engine.support import config_of, contents, save_tiny

INDEX = "model.safetensors.index.json"
OLD = {"precious": b"old"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a tiny Whisper in one file and in shards, and a full target."""
    monkeypatch.chdir(tmp_path)
    save_tiny("whisper", tmp_path / "single")
    save_tiny("whisper", tmp_path / "shards", sharded=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_bytes(OLD["precious"])
    return tmp_path


def refused(*words: str, code: int = 1) -> str:
    """Run by weights, with ``--force``, onto a target that is there; return what is told."""
    given = ["absorb-decompose", *words, "-o", "out", "--force", "--by-weights"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert isinstance(result.exception, SystemExit)
    assert contents(Path("out")) == OLD
    told = result.stderr
    assert told.startswith(("error: ", "Decomposing", "Writing", "Measuring"))
    # Wrapped lines are joined, so that tests need not know the width.
    return " ".join(told.split()).replace("- ", "-")


def nothing_is_staged() -> bool:
    return not Path(".out.surgery-partial").exists()


def change_tensor(directory: Path, name: str, change: Callable[[torch.Tensor], Any]) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    changed = change(tensors[name])
    if isinstance(changed, torch.Tensor):
        tensors[name] = changed.contiguous()
    save_file(tensors, file, metadata={"format": "pt"})


def change_config(directory: Path, **values: Any) -> None:
    (directory / "config.json").write_text(json.dumps(config_of(directory) | values))


def test_a_truncated_file(here: Path) -> None:
    file = here / "single" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    told = refused("single")
    assert "model.safetensors" in told
    assert "bytes" in told
    assert nothing_is_staged()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"\xff" * 8 + data[8:], id="absurd-header-length"),
        pytest.param(lambda data: data[:8] + b"[" + data[9:], id="header-is-no-json"),
        pytest.param(lambda data: data.replace(b'"F32"', b'"Q99"', 1), id="unknown-dtype"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"not a checkpoint at all", id="something-else"),
    ],
)
def test_a_corrupt_file(here: Path, damage: Callable[[bytes], bytes]) -> None:
    file = here / "single" / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    assert "model.safetensors" in refused("single")
    assert nothing_is_staged()


def test_a_missing_shard(here: Path) -> None:
    shard = min((here / "shards").glob("*.safetensors"))
    shard.unlink()
    told = refused("shards")
    assert "shard is missing" in told
    assert shard.name in told
    assert nothing_is_staged()


def test_an_index_that_points_outside(here: Path) -> None:
    index = json.loads((here / "shards" / INDEX).read_text())
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = "../single/model.safetensors"
    (here / "shards" / INDEX).write_text(json.dumps(index))
    told = refused("shards")
    assert "points outside its directory" in told
    assert "../single/model.safetensors" in told
    assert nothing_is_staged()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"d_model": 64}, "contradicts config.json"),
        ({"encoder_layers": 3}, "is missing"),
        ({"encoder_layers": 1}, "no role"),
        ({"encoder_attention_heads": 5}, "not a multiple"),
        ({"model_type": "nonesuch"}, "not known"),
        ({"model_type": "qwen3"}, "a Qwen3 model"),
        ({"model_type": None}, "which architecture"),
    ],
    ids=str,
)
def test_a_config_that_is_not_the_weights(here: Path, values: dict[str, Any], words: str) -> None:
    change_config(here / "single", **values)
    assert words in refused("single")
    assert nothing_is_staged()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tie_word_embeddings": "yes"}, "Field 'tie_word_embeddings' expected bool, got str"),
        ({"encoder_layerdrop": "much"}, "'encoder_layerdrop'"),
        ({"dtype": "floaty"}, "floaty"),
        ({"id2label": {"a": "b"}}, "invalid literal"),
    ],
    ids=str,
)
def test_a_config_that_transformers_refuses_is_refused_everywhere(
    here: Path, values: dict[str, Any], words: str
) -> None:
    surgery.split("single", "split", method="pissa", rank=2)
    (here / "clips").mkdir()
    for made in ("single", "split"):
        change_config(here / made, **values)
    there = sorted(here.iterdir())
    for command in (
        "absorb-decompose single -o new --by-weights",
        "absorb-decompose single -o new",
        "split single --rank 2 -o new",
        "reparam single --method hra -o new",
        "inspect single",
        "inspect single --structure",
        "verify single split",
        "evaluate single --data clips",
        "tune split --data clips -o new",
        "merge split -o new",
        "export split --to hf -o new",
    ):
        result = CliRunner().invoke(app, command.split())
        told = " ".join(result.stderr.split())
        assert (result.exit_code, result.stdout) == (1, ""), command
        assert "config.json does not describe a model of its type" in told, command
        assert words in told, command
        assert sorted(here.iterdir()) == there, command


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"activation_function": "nonesuch"}, "nonesuch"),
        ({"pad_token_id": 4800}, "Padding_idx must be within num_embeddings"),
    ],
    ids=str,
)
def test_a_config_that_no_model_can_be_built_of_is_refused_before_anything_is_written(
    here: Path, values: dict[str, Any], words: str
) -> None:
    change_config(here / "single", **values)
    told = refused("single")
    assert "cannot build the model that config.json describes" in told and words in told
    assert nothing_is_staged()


def test_a_tensor_of_another_shape(here: Path) -> None:
    name = "model.encoder.layers.1.self_attn.v_proj.weight"
    change_tensor(here / "single", name, lambda tensor: tensor[:-1])
    told = refused("single")
    assert name in told
    assert "[31, 32]" in told
    assert "[32, 32]" in told
    assert nothing_is_staged()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["model.encoder.layers.1.self_attn.k_proj.weight", "model.decoder.layers.1.fc2.weight"]
)
def test_weights_that_are_not_finite(here: Path, name: str, value: float) -> None:
    change_tensor(here / "single", name, lambda tensor: tensor[3, 5].fill_(value).sum().item())
    told = refused("single")
    assert name in told
    assert "[3, 5]" in told
    assert "1 NaN" in told if value != value else "1 infinite" in told


def test_integer_weights(here: Path) -> None:
    name = "model.encoder.layers.0.self_attn.q_proj.weight"
    change_tensor(here / "single", name, lambda tensor: tensor.to(torch.int8))
    told = refused("single")
    assert name in told
    assert "unquantised" in told or "quantised" in told
    assert nothing_is_staged()


def test_a_quantised_config(here: Path) -> None:
    change_config(here / "single", quantization_config={"quant_method": "gptq", "bits": 4})
    assert "gptq" in refused("single")
    assert nothing_is_staged()


@pytest.fixture
def small_files(here: Path) -> Iterator[Path]:
    """No file may grow beyond 60 kB: what a full disk or a quota does, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    yield here
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_runs_full_while_writing(small_files: Path) -> None:
    told = refused("single")
    assert "size limit or quota" in told
    assert "--resume" in told
    assert Path(".out.surgery-partial").is_dir()


def test_after_room_was_made_the_run_goes_on(here: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        refused("single")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    words = ["absorb-decompose", "single", "-o", "out", "--force", "--by-weights", "--resume"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert Path("out/report.json").exists()


def test_a_disk_that_is_too_full_to_begin(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgery.checkpoint.disk.free_bytes", lambda directory: 10_000)
    told = refused("single")
    assert "too little free space" in told
    assert "10,000 bytes free" in told


@pytest.mark.parametrize("name", ["whisper-tiny.em", "whisper", "./nowhere", "model.pt"])
def test_an_unknown_name(here: Path, name: str) -> None:
    told = refused(name)
    assert name in told
    assert "whisper-tiny" in told
    if name == "whisper-tiny.em":
        assert "did you mean whisper-tiny" in told
    assert nothing_is_staged()


def test_more_than_can_be_removed(here: Path) -> None:
    told = refused("single", "--remove", "99%", code=2)
    assert "More is to be removed than can be pruned" in told
    assert "at most 93" in told  # one vector of eight stays of Q and K, and the bias of o
    assert "Decomposing" not in told  # known before any work
    assert nothing_is_staged()


def test_more_than_can_be_removed_across_rope(here: Path) -> None:
    save_tiny("llama", here / "llama")
    told = refused("llama", "--remove", "60%", code=2)
    assert "at most 50.00%" in told  # V and O are half of attention, and all of them can go
    assert nothing_is_staged()


def test_two_rules_at_once(here: Path) -> None:
    told = refused("single", "--lossless", "--remove", "10%", code=2)
    assert "--lossless and --remove" in told


@pytest.mark.parametrize("rule", [["--remove", "10%"], ["--energy", "0.9"], []])
def test_tied_ranks_across_rope(here: Path, rule: list[str]) -> None:
    save_tiny("llama", here / "llama")
    told = refused("llama", "--layout", "tied", *rule, code=2)
    assert "one rank for QK and VO" in told
    assert "RoPE" in told
    assert "Decomposing" not in told
    assert nothing_is_staged()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--per-pair"], "no --remove"),
        (["--seams", "qv"], "--seams"),
        (["--pairs", "qv"], "--seams"),  # its older name
        (["--multiple", "9"], "larger than a head"),
        (["--remove", "10%", "--per-pair", "--layout", "tied"], "--per-pair"),
        (["--scope", "encoder", "--pairs", ","], "no pair"),
        (["--data", "nowhere"], "no such folder"),
        (["--data", "single/config.json"], "folder of audio"),
        (["--data", "single"], "no recordings"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_cannot_be_had_are_refused_before_any_work(
    here: Path, words: list[str], told: str
) -> None:
    code = 1 if words[-1] == "single" else 2
    found = refused("single", *words, code=code)
    assert told in found
    assert "Decomposing" not in found
    assert nothing_is_staged()


def test_scopes_a_model_does_not_have(here: Path) -> None:
    save_tiny("gpt2", here / "gpt2")
    told = refused("gpt2", "--scope", "cross", code=2)
    assert "no cross attention" in told
    assert "decoder" in told


def test_qk_across_rope(here: Path) -> None:
    save_tiny("llama", here / "llama")
    told = refused("llama", "--pairs", "qk", "--remove", "10%", code=2)
    assert "RoPE" in told


def test_the_target_is_the_source(here: Path) -> None:
    words = ["absorb-decompose", "single", "-o", "single", "--force"]
    was = contents(here / "single")
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert contents(here / "single") == was


def test_a_target_that_is_a_file_or_cannot_be_made(here: Path) -> None:
    (here / "file").write_text("x")
    for target in ("file", "file/below"):
        result = CliRunner().invoke(app, ["absorb-decompose", "single", "-o", target, "--force"])
        assert result.exit_code == 1, result.output
        assert "Traceback" not in result.output
    assert (here / "file").read_text() == "x"


def test_a_target_that_is_not_empty(here: Path) -> None:
    result = CliRunner().invoke(app, ["absorb-decompose", "single", "-o", "out"])
    assert result.exit_code == 1
    assert "--force" in result.stderr
    assert contents(Path("out")) == OLD


def test_data_on_a_model_without_a_tokenizer(here: Path) -> None:
    # The work is done by then, so it is kept: without --data the run goes on.
    shutil.rmtree("out")
    save_tiny("llama", here / "llama")
    (here / "text.txt").write_text("Once upon a time.\n" * 20)
    words = ["absorb-decompose", "llama", "-o", "out", "--by-weights"]
    result = CliRunner().invoke(app, [*words, "--data", "text.txt"])
    assert result.exit_code == 1
    assert "tokenizer" in result.stderr
    assert not Path("out").exists()
    again = CliRunner().invoke(app, [*words, "--resume"])
    assert again.exit_code == 0, again.output


def test_a_pickle_is_never_opened(here: Path) -> None:
    (here / "pickled").mkdir()
    shutil.copy(here / "single" / "config.json", here / "pickled")
    (here / "pickled" / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    told = refused("pickled")
    assert "pytorch_model.bin" in told
    assert "pickle" in told


def test_an_error_is_short_whatever_a_file_holds(here: Path) -> None:
    file = here / "single" / "model.safetensors"
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    name = "model.decoder.layer_norm.bias"
    header["x" * 50_000] = header.pop(name) | {"shape": [1] * 20_000 + [32, 2]}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    told = refused("single")
    assert "contradict its shape" in told
    assert len(told) < 4_000


def test_integers_in_a_norm_are_refused_by_every_command(here: Path) -> None:
    norm = "model.encoder.layers.0.self_attn_layer_norm.bias"
    change_tensor(here / "single", norm, lambda tensor: tensor.to(torch.int8))
    commands = ("split single --rank 2", "reparam single --method hra", "inspect single")
    for words in (*commands, "compress single --remove 5% --calibrate shipped --dry-run"):
        found = CliRunner().invoke(app, words.split())
        assert found.exit_code == 1 and f"Tensor {norm} is not a floating" in found.stderr, words
    assert norm in refused("single", "--lossless")
