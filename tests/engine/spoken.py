"""Tiny checkpoints that read text or hear speech, and something to read and to hear."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers

from surgery.micro.assets import DIRECTORY
from tests.engine.support import DTYPES, contents, save_tiny

CLIPS = DIRECTORY / "test"
TEXT = (
    "once upon a time there was a little cat who lived in a house by the sea\n"
    "she sang of fish and ships and the long way home until the night fell\n"
)
OTHER_TEXT = "the quick brown fox jumps over the lazy dog and then the dog jumps back again\n" * 2
EARS = ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")


def save_spoken(
    name: str,
    directory: Path,
    *,
    letters: str = "abcdefghijklmnopqrstuvwxyz",
    dtype: str = "fp32",
    seed: int = 0,
) -> Path:
    """Save a tiny text model with a tokenizer of letters that transformers loads."""
    save_tiny(name, directory, dtype=dtype, seed=seed)
    (directory / "vocab.json").unlink()
    return give_words(directory, letters)


def give_words(directory: Path, letters: str = "abcdefghijklmnopqrstuvwxyz") -> Path:
    """Put a tokenizer of letters beside a model."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 1, "</s>": 2, "?": 3} | {each: 4 + at for at, each in enumerate(letters)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")
    fast.save_pretrained(directory)
    return directory


def save_listener(directory: Path, *, dtype: str = "fp32", seed: int = 0) -> Path:
    """Save a tiny random Whisper with the ears and the words of whisper-micro."""
    directory.mkdir(parents=True, exist_ok=True)
    for file, data in _listener(dtype, seed).items():
        (directory / file).write_bytes(data)
    return directory


@cache
def _listener(dtype: str, seed: int) -> dict[str, bytes]:
    known = json.loads((DIRECTORY / "config.json").read_text())
    small = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "decoder_attention_heads": 2}
    small |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "dtype": "float32"}
    torch.manual_seed(seed)
    model = transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(**(known | small))
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.5))
    with TemporaryDirectory() as temporary:
        path = Path(temporary)
        model.to(DTYPES[dtype]).save_pretrained(path)
        for file in (*EARS, "generation_config.json"):
            shutil.copy(DIRECTORY / file, path)
        return contents(path)


def save_clips(directory: Path, numbers: range, *, words: bool = True) -> Path:
    """Copy some of the clips that the package ships, with what is said in them."""
    directory.mkdir(parents=True)
    lines = (CLIPS / "transcripts.tsv").read_text().splitlines()
    chosen = [lines[number] for number in numbers]
    for line in chosen:
        shutil.copy(CLIPS / line.split("\t")[0], directory)
    if words:
        (directory / "transcripts.tsv").write_text("\n".join(chosen) + "\n")
    return directory
