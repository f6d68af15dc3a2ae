"""Splits and re-parameterisations of real weights: the same function, and back again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

import surgery
from surgery.evaluation.transcribe import transcribe
from tests.engine.real import RealWhisper
from tests.engine.support import tensors_of
from tests.engine.test_small_parts import METHODS, oracle_weights

pytestmark = pytest.mark.usefixtures("no_pictures")

TEXT = "Once upon a time there was a"


@pytest.fixture(scope="module")
def llama(shared: Path) -> Path:
    return shared / "checkpoints" / "stories260K"


def logits(model: Any, folder: Path) -> Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        found: Tensor = model(**tokenizer(TEXT, return_tensors="pt")).logits
    return found


def greedy(model: Any, folder: Path) -> str:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = model.generate(
        **tokenizer(TEXT, return_tensors="pt"), max_new_tokens=40, do_sample=False
    )
    return str(tokenizer.decode(tokens[0]))


@pytest.mark.parametrize("method", METHODS)
def test_a_real_llama_starts_unchanged_and_merges_back(
    method: str, llama: Path, tmp_path: Path
) -> None:
    METHODS[method](llama, tmp_path / "out", targets=["q", "k", "v", "o", "gate", "up", "down"])
    before, after = surgery.load(llama), surgery.load(tmp_path / "out")
    assert (logits(before, llama) - logits(after, llama)).abs().max() <= 1e-4
    assert greedy(before, llama) == greedy(after, llama)
    merged = surgery.merge(tmp_path / "out", tmp_path / "merged")
    original, found = tensors_of(llama), tensors_of(merged)
    for name, weight in original.items():
        assert (weight - found[name]).abs().max() <= 1e-6 * weight.abs().max(), name


@pytest.mark.parametrize("method", ["sorsa", "hra", "qgoft"])
def test_a_real_whisper_writes_the_same_words(
    method: str, real: RealWhisper, tmp_path: Path
) -> None:
    METHODS[method](real.path, tmp_path / "out")
    after = surgery.load(tmp_path / "out")
    assert transcribe(after, real.processor, real.clips[::2]) == real.texts[::2]
    stored = next(iter(tensors_of(real.path).values())).dtype
    allowed = 4 * torch.finfo(stored).eps if method == "sorsa" else 1e-5
    assert real.error(after, sentences=1) <= max(allowed, 1e-5)


def test_a_pruned_real_whisper_is_split_and_merged_step_by_step(
    real: RealWhisper, tmp_path: Path
) -> None:
    cut = surgery.Options(rule=surgery.Remove(0.125), by_weights=True)
    surgery.absorb_decompose(real.path, tmp_path / "pruned", options=cut)
    surgery.split(tmp_path / "pruned", tmp_path / "split", rank=16, scope="encoder")
    pruned = tensors_of(tmp_path / "pruned")
    for name, weight in oracle_weights(tmp_path / "split", transposed=False).items():
        allowed = torch.finfo(pruned[name].dtype).eps * pruned[name].abs().max()
        assert (weight - pruned[name].double()).abs().max() <= allowed + 1e-6
    back = tensors_of(surgery.merge(tmp_path / "split", tmp_path / "back", steps=1))
    assert back.keys() == pruned.keys()
    for name, tensor in back.items():
        eps = torch.finfo(tensor.dtype).eps
        assert (tensor - pruned[name]).abs().max() <= 2 * eps * pruned[name].abs().max(), name
