"""What is fuzzed: tiny checkpoints of every kind, and the commands that read them.

A subject is a folder. ``in`` is the checkpoint that is read (``adapter`` where that is an
adapter), ``base`` an untouched copy of what it is compared with.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from surgery.checkpoint.resolve import resolve
from surgery.checkpoint.writer import ShardWriter
from surgery.stored.adapter import write_adapter
from surgery_cli.main import app
from surgery_cli.session import INTERRUPTED
from tests.engine.spoken import TEXT, save_clips, save_listener, save_spoken
from tests.engine.support import save_tiny
from tests.fuzz.commands import (
    ABSORB,
    ADAPTED,
    CALIBRATED,
    COMPRESSED,
    DENSE,
    GGUF,
    PEFT,
    SPEECH_READ,
    STATISTICS,
    TEXT_READ,
    TREATED,
    TUNED,
    WHISPERS,
    Words,
)
from tests.models import model_class
from tests.training.adapters import add_parts, moved

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
USUAL = {f"in/{CONFIG}": 4, f"in/{WEIGHTS}": 4}
SHARDED = {f"in/{CONFIG}": 1, f"in/{INDEX}": 4, "in/*.safetensors": 2}


@dataclass(frozen=True)
class Subject:
    """One kind of input.

    Attributes:
        family: Name of its tiny model.
        build: Fills an empty folder.
        commands: What reads it.
        files: What is spoilt, and how often each; a pattern stands for any that matches.
        focus: The key of JSON files that is spoilt more often.
        kind: ``dense``, ``treated``, ``adapter``, ``peft``, ``statistics``, ``interrupted``
            or ``finished``.
    """

    family: str
    build: Callable[[Path], None]
    commands: Words
    files: dict[str, int] = field(default_factory=lambda: dict(USUAL))
    focus: str | None = None
    kind: str = "dense"


def _twin(folder: Path) -> None:
    shutil.copytree(folder / "in", folder / "base")


def _dense(name: str, *, sharded: bool = False) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        save_tiny(name, folder / "in", sharded=sharded)
        _twin(folder)

    return build


def _spoken(name: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        save_spoken(name, folder / "in")
        (folder / "text.txt").write_text(TEXT * 6)
        _twin(folder)

    return build


def _listening(folder: Path) -> None:
    save_listener(folder / "in")
    save_clips(folder / "clips", range(2))
    _twin(folder)


def surgery(folder: Path, words: str) -> None:
    """Run a command in a folder; it must go well."""
    with contextlib.chdir(folder):
        result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 0, result.output


def _then(start: Callable[[Path], None], *commands: str) -> Callable[[Path], None]:
    """Operate on what another builder left: each command makes ``in`` of ``base``."""

    def build(folder: Path) -> None:
        start(folder)
        for words in commands:
            shutil.rmtree(folder / "base")
            (folder / "in").rename(folder / "base")
            surgery(folder, f"{words} base -o in")

    return build


def _tuned_parts(folder: Path) -> None:
    _then(_spoken("llama"), SPLIT)(folder)
    shutil.rmtree(folder / "base")
    (folder / "in").rename(folder / "base")
    (folder / "adapter").mkdir()
    with resolve(str(folder / "base")) as base:
        write_adapter(folder / "adapter", moved(base, ".sorsa_s"), base=base, method="sorsa")


def _added_parts(folder: Path) -> None:
    save_spoken("llama", folder / "base")
    add_parts(folder / "adapter", "pissa", folder / "base", "norm.weight")


def _peft(kind: str, **options: Any) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        import peft

        save_tiny("llama", folder / "in")
        stock: Any = model_class("llama").from_pretrained(folder / "in")
        config = getattr(peft, kind)(target_modules=["q_proj", "down_proj"], **options)
        torch.manual_seed(3)
        model = peft.get_peft_model(stock, config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name or "hra_" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(folder / "adapter")
        file = folder / "adapter" / "adapter_config.json"
        settings = json.loads(file.read_text()) | {"base_model_name_or_path": "in"}
        file.write_text(json.dumps(settings, indent=2))  # the same on any machine

    return build


def _with_statistics(folder: Path) -> None:
    _spoken("llama")(folder)
    surgery(folder, f"{ABSORB} --calibrate text.txt --statistics stats --remove 25%")
    shutil.rmtree(folder / "out")


def _interrupted(folder: Path) -> None:
    """Stop a run in its second shard."""
    save_tiny("llama", folder / "in", sharded=True)
    _twin(folder)
    written, real = 0, ShardWriter.write

    def write(self: ShardWriter, *given: Any) -> None:
        nonlocal written
        written += 1
        if written == 12:
            raise KeyboardInterrupt
        real(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardWriter, "write", write)
        with contextlib.chdir(folder):
            stopped = CliRunner().invoke(app, f"{ABSORB} --lossless".split())
    assert stopped.exit_code == INTERRUPTED, stopped.output


def _finished(folder: Path) -> None:
    """Leave a whole result, to be asked for again."""
    _dense("gpt2")(folder)
    surgery(folder, f"{ABSORB} --lossless")


ADAPTER_FILES = {
    "adapter/adapter.json": 5,
    "adapter/adapter.safetensors": 3,
    f"base/{CONFIG}": 1,
    f"base/{WEIGHTS}": 1,
}
PEFT_FILES = {
    "adapter/adapter_config.json": 5,
    "adapter/adapter_model.safetensors": 4,
    f"in/{CONFIG}": 1,
}
EARS = USUAL | {"in/generation_config.json": 1, "in/preprocessor_config.json": 1}
WORDS = USUAL | {"in/tokenizer.json": 1, "in/tokenizer_config.json": 1}
IMPORT: Words = {"import": "import in --adapter adapter -o out"}
CUT = "absorb-decompose --remove 30% --per-pair --by-weights"
PAIRS = "absorb-decompose --remove 30% --calibrate text.txt"
TIED = "absorb-decompose --remove 30% --by-weights --layout tied --scope all"
SPLIT = "split --rank 4 --targets q,down"

SUBJECTS: dict[str, Subject] = {
    "llama": Subject(
        "llama",
        _spoken("llama"),
        DENSE | TEXT_READ | GGUF | CALIBRATED | COMPRESSED,
        files=dict(WORDS),
    ),
    "gpt2": Subject("gpt2", _spoken("gpt2"), DENSE | TEXT_READ | COMPRESSED),
    "bert": Subject("bert", _spoken("bert"), DENSE | TEXT_READ),
    "whisper": Subject("whisper", _listening, DENSE | SPEECH_READ | WHISPERS, files=dict(EARS)),
    "qwen2 sharded": Subject("qwen2", _dense("qwen2", sharded=True), DENSE, dict(SHARDED)),
    "gpt2 without prefix": Subject("gpt2-unprefixed", _dense("gpt2-unprefixed"), DENSE),
    "llama cut": Subject(
        "llama",
        _then(_spoken("llama"), PAIRS),
        TREATED | TEXT_READ | GGUF,
        focus="surgery",
        kind="treated",
    ),
    "whisper cut, tied": Subject(
        "whisper",
        _then(_listening, TIED),
        TREATED | SPEECH_READ | WHISPERS,
        focus="surgery",
        kind="treated",
    ),
    "gpt2 cut": Subject(
        "gpt2", _then(_dense("gpt2"), CUT), TREATED, focus="surgery", kind="treated"
    ),
    "llama cut and split": Subject(
        "llama",
        _then(_spoken("llama"), CUT, SPLIT),
        TREATED | PEFT | TUNED,
        focus="surgery",
        kind="treated",
    ),
    "bert goft": Subject(
        "bert",
        _then(_dense("bert"), "reparam --method goft --targets q,up"),
        TREATED,
        focus="surgery",
        kind="treated",
    ),
    "qwen2 core, sharded": Subject(
        "qwen2",
        _then(_dense("qwen2", sharded=True), "reparam --method core"),
        TREATED,
        dict(SHARDED) | {f"in/{CONFIG}": 3},
        focus="surgery",
        kind="treated",
    ),
    "adapter of trained parts": Subject(
        "llama", _tuned_parts, ADAPTED, dict(ADAPTER_FILES), kind="adapter"
    ),
    "adapter of new parts": Subject(
        "llama", _added_parts, ADAPTED, dict(ADAPTER_FILES), focus="operation", kind="adapter"
    ),
    "PEFT LoRA": Subject(
        "llama", _peft("LoraConfig", r=4, lora_alpha=6), IMPORT, dict(PEFT_FILES), kind="peft"
    ),
    "PEFT HRA": Subject("llama", _peft("HRAConfig", r=4), IMPORT, dict(PEFT_FILES), kind="peft"),
    "statistics": Subject("llama", _with_statistics, STATISTICS, {"stats": 1}, kind="statistics"),
    "interrupted run": Subject(
        "llama",
        _interrupted,
        {"absorb-decompose --resume": f"{ABSORB} --lossless --resume"},
        {".out.surgery-partial/*": 1},
        kind="interrupted",
    ),
    "finished run": Subject(
        "gpt2",
        _finished,
        {"absorb-decompose again": f"{ABSORB} --lossless"},
        {f"out/{CONFIG}": 3, "out/report.json": 3, f"out/{WEIGHTS}": 1},
        kind="finished",
    ),
}
