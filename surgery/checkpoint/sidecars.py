"""Which files beside the weights belong to a model, and copying them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from surgery.checkpoint.disk import target_errors

TERMS = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*")
"""Terms the weights come under: they go wherever the weights go, in whatever form."""

PATTERNS: tuple[str, ...] = (
    # tokenizers
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "vocab.bpe",
    "merges.txt",
    "normalizer.json",
    "spiece.model",
    "sentencepiece*.model",
    "*.tiktoken",
    "tekken.json",
    "chat_template.json",
    "chat_template.jinja",
    # processors and generation
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    *TERMS,
)
"""An allow list: a restructured checkpoint must never inherit weights in another format, code,
or pickles. README.md stays behind because the result gets a model card of its own."""

FORBIDDEN_SUFFIXES = (".py", ".pkl", ".pickle", ".bin", ".pt", ".pth", ".ckpt", ".safetensors")


def is_sidecar(name: str) -> bool:
    """Whether a file of this bare name comes along with the weights."""
    return not name.lower().endswith(FORBIDDEN_SUFFIXES) and any(
        fnmatchcase(name, pattern) for pattern in PATTERNS
    )


def is_terms(name: str) -> bool:
    """Whether a sidecar of this bare name says on what terms the weights are passed on."""
    return any(fnmatchcase(name, pattern) for pattern in TERMS)


def find_sidecars(directory: Path) -> list[Path]:
    """Sidecar files of a checkpoint directory, by name."""
    return sorted(path for path in directory.iterdir() if is_sidecar(path.name) and path.is_file())


def copy_sidecars(files: Iterable[Path], directory: Path) -> list[str]:
    """Copy the files' contents (never links, never modes) into ``directory``.

    Raises:
        TargetError: A copy cannot be written.
    """
    written = []
    for path in files:
        target = directory / path.name
        with target_errors(target):
            shutil.copyfile(path, target)
        written.append(path.name)
    return written
