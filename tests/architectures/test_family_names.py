"""What is known of a family stands in its file: nothing else asks for one by its name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from surgery.architectures import ARCHITECTURES
from tests.conftest import ROOT
from tests.test_house import SOURCES, name_of

OWN = {
    "surgery/runtime/families.py": "it travels without the families: which file runs which",
    "surgery/export/ct2/target.py": "Whisper's own: faster-whisper has a WhisperModel, too",
    "surgery/export/whisper/form.py": "Whisper's own: which of its classes says words",
    "surgery/export/openai_whisper/target.py": "Whisper's own: the module of openai-whisper",
    "surgery/export/gguf/form.py": "llama.cpp's general architecture is called llama",
    "surgery/export/gguf/words.py": "llama.cpp's names of tokenizers and of ways to split text",
    "surgery/checkpoint/whisper_assets.py": "Whisper's own: the config.json that a .pt lacks",
    "surgery/checkpoint/whisper_vocabulary.py": "Whisper's own: a file of openai-whisper's package",
    "surgery/checkpoint/names.py": "names of published checkpoints, as people type them",
    "surgery/micro/train.py": "Whisper's own: how whisper-micro was made",
    "surgery/micro/check.py": "the same",
}
"""Modules that are a family's own, or whose names are somebody else's: and why."""

FAMILIES = ROOT / "surgery" / "architectures" / "families"
CLASSES = {one.name for family in ARCHITECTURES.values() for one in family.classes}
CLASS = re.compile(rf"\b(?:{'|'.join(sorted(CLASSES))})\b")
END = re.compile(r"(?:For[A-Z][A-Za-z]+|LMHeadModel)")
"""The end of a class's name, by which its head could be guessed."""


def prose(tree: ast.AST) -> set[int]:
    """Strings that are statements: documentation, which may say what it likes."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def families_named(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = prose(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("transformers"):
            for alias in node.names:
                if alias.name in CLASSES:
                    yield f"line {node.lineno}: {alias.name}"
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        said = node.value
        if id(node) not in documentation and (
            said in ARCHITECTURES or CLASS.search(said) or END.fullmatch(said)
        ):
            yield f"line {node.lineno}: {said!r}"


def test_a_family_is_named_in_its_own_files_alone() -> None:
    others = [path for path in SOURCES if not path.is_relative_to(FAMILIES)]
    found = {name_of(path): said for path in others if (said := list(families_named(path)))}
    assert not OWN.keys() - found, "name no family any more: strike them from OWN"
    for name in OWN:
        del found[name]
    assert not found, f"make it a field of Architecture or ModelClass: {found}"
