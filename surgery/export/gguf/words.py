"""A tokenizer.json as the metadata that llama.cpp makes its tokenizer of, where it has one.

Two kinds can be said: byte-pair merges on text with ``▁`` for spaces (as SentencePiece has them),
and byte-level merges behind one of a few known ways to split text into words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of tokens."""
SCORED, MERGED = "llama", "gpt2"
"""What llama.cpp calls tokenizers with ``▁`` for spaces, and of bytes, whatever the model is."""

SPLITS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
}
"""How text is split into words, and what llama.cpp calls that."""


@dataclass(frozen=True)
class Words:
    """A tokenizer in llama.cpp's terms.

    Attributes:
        model: :data:`SCORED` or :data:`MERGED`.
        tokens: Text of every token.
        kinds: Kind of every token.
        scores: Of :data:`SCORED`: the higher, the earlier two tokens become this one.
        merges: Of :data:`MERGED`: the merges in order.
        split: Of :data:`MERGED`: how text is split into words.
        begins: Whether a text begins with the first token.
        prefix: Of :data:`SCORED`: whether a space is put before a text.
        stand_in: These are no words but numbers: the model is told tokens, not text.
    """

    model: str
    tokens: list[str]
    kinds: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    split: str = ""
    begins: bool = False
    prefix: bool = False
    stand_in: bool = False


def read_words(path: Path | None, size: int) -> Words:
    """Read a tokenizer.json; a stand-in where llama.cpp has no tokenizer that does the same.

    llama.cpp can load a model without any tokens, but its server ends the process at the first
    request to it. So numbers in brackets stand in for unknown words.

    Args:
        path: The file; ``None`` where there is none.
        size: Tokens the model has; those without a text are filled up.
    """
    found = None
    if path is not None:
        try:
            found = _words(json.loads(path.read_text(encoding="utf-8")), size)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            found = None  # of a form that is not known here
    if found is not None:
        return found
    tokens = [f"[{place}]" for place in range(size)]
    return Words(SCORED, tokens, [NORMAL] * size, [0.0] * size, stand_in=True)


def _words(raw: Mapping[str, Any], size: int) -> Words | None:
    model = raw["model"]
    vocabulary: dict[str, int] = model["vocab"]
    added = {one["id"]: one for one in raw.get("added_tokens") or ()}
    if model["type"] != "BPE" or max([*vocabulary.values(), *added]) >= size:
        return None
    merges = [each.split(" ") if isinstance(each, str) else each for each in model["merges"]]
    tokens = [f"[PAD{place}]" for place in range(size)]
    kinds = [UNUSED] * size
    for token, place in vocabulary.items():
        tokens[place], kinds[place] = token, NORMAL
        if model.get("byte_fallback") and re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            kinds[place] = BYTE
    for place, one in added.items():
        tokens[place] = one["content"]
        kinds[place] = CONTROL if one.get("special") else USER
    begins = _begins(raw.get("post_processor"))
    if (split := _split(raw)) is not None:
        lines = [" ".join(pair) for pair in merges]
        return Words(MERGED, tokens, kinds, merges=lines, split=split, begins=begins)
    if not model.get("byte_fallback") or not _spaces(raw):
        return None
    unknown = vocabulary.get(model.get("unk_token") or "")
    if unknown is not None:
        kinds[unknown] = UNKNOWN
    first: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        first.setdefault("".join(pair), rank)
    scores = [-float(first.get(token, len(merges))) for token in tokens]
    return Words(SCORED, tokens, kinds, scores, begins=begins, prefix=_prefix(raw))


def _steps(part: Mapping[str, Any] | None, inner: str) -> list[Mapping[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer, one or a sequence."""
    if part is None:
        return []
    return list(part[inner]) if part["type"] == "Sequence" else [part]


def _split(raw: Mapping[str, Any]) -> str | None:
    """Return llama.cpp's name of how bytes are split into words; ``None``: it has none."""
    steps = _steps(raw.get("pre_tokenizer"), "pretokenizers")
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    normalizers = [one["type"] for one in _steps(raw.get("normalizer"), "normalizers")]
    if len(steps) == 1 and steps[0].get("use_regex", True) and not normalizers:
        return "gpt-2"
    if len(steps) == 2 and steps[0]["type"] == "Split" and set(normalizers) <= {"NFC"}:
        return SPLITS.get(steps[0]["pattern"].get("Regex", ""))
    return None


def _spaces(raw: Mapping[str, Any]) -> bool:
    """Whether all that is done to a text before the merges is to write its spaces as ``▁``."""
    before = _steps(raw.get("normalizer"), "normalizers")
    before += _steps(raw.get("pre_tokenizer"), "pretokenizers")
    return {one["type"] for one in before} <= {"Prepend", "Replace", "Metaspace"}


def _prefix(raw: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text."""
    before = _steps(raw.get("normalizer"), "normalizers")
    before += _steps(raw.get("pre_tokenizer"), "pretokenizers")
    return any(
        one["type"] == "Prepend" or one.get("prepend_scheme") in ("always", "first")
        for one in before
    )


def _begins(processor: Mapping[str, Any] | None) -> bool:
    """Whether a text begins with a special token."""
    steps = _steps(processor, "processors")
    return any(
        one["type"] == "TemplateProcessing" and "SpecialToken" in one["single"][0] for one in steps
    )
