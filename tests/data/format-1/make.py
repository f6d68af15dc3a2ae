"""How this folder was made: with the code of commit a89a634, the last before the move of the house.

Not run by any test; what it wrote is committed and stays as it is. From a checkout of that commit:

    PYTHONPATH=.:cli python <this file> OUT

with torch 2.13.0, transformers 5.24.0 and peft 0.21.2. It left out what is large and not read:
report.html, README.md and modeling_surgery.py, which travels in every checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from typer.testing import CliRunner

import surgery
from surgery_cli.main import app

LETTERS = "abcdefghijklmnopqrstuvwxyz "
TEXT = """once upon a time there was a little cat who lived in a house by the sea
she sang of fish and ships and the long way home until the night fell
"""
OTHER = "the quick brown fox jumps over the lazy dog and then the dog jumps back again\n" * 2
VOCABULARY = 32  # four special tokens, the letters, and one left over

ROTARY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

MODELS: dict[str, tuple[str, str, dict[str, Any], torch.dtype]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", ROTARY, torch.float32),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", ROTARY, torch.bfloat16),
    "whisper": (
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        {
            "vocab_size": VOCABULARY,
            "d_model": 16,
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 16,
            "decoder_ffn_dim": 16,
            "num_mel_bins": 8,
            "max_source_positions": 10,
            "max_target_positions": 12,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
        torch.float16,
    ),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 16,
            "n_layer": 2,
            "n_inner": 32,
            "n_head": 2,
            "n_positions": 16,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        torch.float16,
    ),
    "bert": (
        "BertConfig",
        "BertForMaskedLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 16,
        },
        torch.float16,
    ),
}

TUNE = "--data text.txt --batch 2 --length 16 --device cpu --learning-rate 0.01 --held-out 0"
STEPS = {
    "llama-calibrated": "absorb-decompose llama --remove 30% --calibrate text.txt"
    " --statistics llama.statistics --data other.txt",
    "llama-by-statistics": "absorb-decompose llama --remove 25% --statistics llama.statistics",
    "whisper-lossless": "absorb-decompose whisper --lossless",
    "whisper-block": "absorb-decompose whisper --remove 30% --by-weights --layout block",
    "gpt2-cut": "absorb-decompose gpt2 --remove 30% --by-weights",
    "bert-cut": "absorb-decompose bert --remove 25% --by-weights",
    "qwen2-cut": "absorb-decompose qwen2 --remove 25% --by-weights --pairs vo",
    "llama-sorsa": "split llama --rank 2 --targets q,down",
    "bert-hra": "reparam bert --method hra --reflections 2 --targets v,up",
    "gpt2-qgoft": "reparam gpt2 --method qgoft --targets o,down",
    "gpt2-cut-sorsa": "split gpt2-cut --rank 2 --targets o,up",
    "llama-core": f"tune llama-calibrated --train core --up-block 8 --steps 3 {TUNE}",
    "llama-sorsa-tuned": f"tune llama-sorsa --steps 3 {TUNE} --eval-data other.txt",
    "llama-peft": "export llama-sorsa-tuned --to peft --original llama",
}
"""Name of each result to what made it, in order; without ``-o``."""

ONLY_RANKS = "llama-by-statistics"
OF_PEFT = "llama-peft"
UNREAD = ("report.html", "README.md", "modeling_surgery.py", "generation_config.json")


def save_model(name: str) -> None:
    """Save a tiny random model, with a tokenizer of letters where it reads."""
    kind, model_class, values, dtype = MODELS[name]
    torch.manual_seed(len(name))
    config = getattr(transformers, kind)(**values)
    model = getattr(transformers, model_class)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.5))
    model.to(dtype).save_pretrained(name)
    if name == "llama":
        save_tokenizer(name)


def save_tokenizer(directory: str) -> None:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    words = {word: at for at, word in enumerate(["<pad>", "<s>", "</s>", "?", *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="?",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    ).save_pretrained(directory)


def inputs(name: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    tokens = torch.randint(3, VOCABULARY, (1, 8))
    if not name.startswith("whisper"):
        return {"input_ids": tokens}
    return {"input_features": torch.randn(1, 8, 20), "decoder_input_ids": tokens}


@torch.no_grad()
def save_expected(name: str) -> None:
    given = inputs(name)
    if name == OF_PEFT:  # what is loaded is the adapter on its base
        surgery.import_adapter("llama", name, "imported")
        loaded = surgery.load("imported")
    else:
        loaded = surgery.load(name)
    logits = loaded(**given).logits
    assert logits.dtype == torch.float32
    save_file({**given, "logits": logits.contiguous()}, f"expected/{name}.safetensors")


def sha256_of_merged(name: str) -> str:
    merged = surgery.merge(name, "merged", force=True)
    return hashlib.sha256((merged / "model.safetensors").read_bytes()).hexdigest()


def run(words: str) -> None:
    result = CliRunner().invoke(app, shlex.split(words))
    if result.exit_code:
        raise SystemExit(f"{words}\n{result.output}")


def make() -> None:
    Path("text.txt").write_text(TEXT * 6)
    Path("other.txt").write_text(OTHER)
    Path("expected").mkdir()
    for name in MODELS:
        save_model(name)
        save_expected(name)
    merged: dict[str, str] = {}
    for name, words in STEPS.items():
        run(f"{words} -o {name}")
        if name == ONLY_RANKS:
            sites = surgery.load(name).config.surgery["operations"][-1]["sites"]
            Path("llama.ranks.json").write_text(json.dumps(sites, indent=1) + "\n")
            shutil.rmtree(name)
            continue
        save_expected(name)
        if name != OF_PEFT:
            merged[name] = sha256_of_merged(name)
    document = {"commands": STEPS, "merged": merged}
    Path("expected/made.json").write_text(json.dumps(document, indent=1) + "\n")


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) / "format-1"  # of the data's path, two names are kept
        work.mkdir()
        with contextlib.chdir(work):
            make()
            for name in ("merged", "imported"):
                shutil.rmtree(name)
            for path in list(Path.cwd().rglob("*")):
                if path.name in UNREAD:
                    path.unlink()
        shutil.copytree(work, out, dirs_exist_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
