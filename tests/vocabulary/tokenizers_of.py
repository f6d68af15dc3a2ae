"""Small tokenizers of every kind, trained on a page of text."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

KINDS = ("byte-level", "byte-fallback", "unigram", "wordpiece")
SPECIALS = ["<unk>", "<s>", "</s>"]
TEXT = (files("surgery") / "data" / "sample.txt").read_text(encoding="utf-8")
LINES = tuple(line for line in TEXT.splitlines() if line.strip())


@cache
def _trained(kind: str, size: int) -> str:
    maker: Any
    if kind == "byte-level":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        letters = pre_tokenizers.ByteLevel.alphabet()
        maker = trainers.BpeTrainer(
            vocab_size=size, special_tokens=SPECIALS, initial_alphabet=letters, show_progress=False
        )
    elif kind == "byte-fallback":
        made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
        maker = trainers.BpeTrainer(
            vocab_size=size, special_tokens=[*SPECIALS, *bytes_], show_progress=False
        )
    elif kind == "unigram":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        maker = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
        )
    else:
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.normalizer = normalizers.BertNormalizer()
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        maker = trainers.WordPieceTrainer(
            vocab_size=size, special_tokens=SPECIALS, show_progress=False
        )
    made.train_from_iterator(LINES, maker)
    return made.to_str()


def raw_tokenizer(kind: str, size: int = 600) -> dict[str, Any]:
    """Return a parsed tokenizer.json; byte tokens of the fallback are no added ones there."""
    raw: dict[str, Any] = json.loads(_trained(kind, size))
    raw["added_tokens"] = [one for one in raw["added_tokens"] if one["content"] in SPECIALS]
    return raw
