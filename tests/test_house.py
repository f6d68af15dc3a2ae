"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.blocks import blocks

LONGEST_FILE = 300
PACKAGES = (ROOT / "surgery", ROOT / "cli")
SOURCES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
RUNTIME_MAY_IMPORT = {"torch", "transformers", *sys.stdlib_module_names}

MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|work|Users|mnt)/\w|\b[A-Z]:\\\\?\w")
REGISTRY = re.compile(
    r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|anaconda\.(?:org|com)|-index-ur[l]"
)


def tracked_files() -> list[Path]:
    """Files that git tracks or would track; every file where this is no checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout: cannot tell what is tracked")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str | None:
    """The file's text, or None where it is not text."""
    raw = path.read_bytes()
    return None if b"\0" in raw else raw.decode("utf-8", errors="replace")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_names(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY], ids=["machine path", "registry"])
def test_no_tracked_file_names_one_machine_or_registry(pattern: re.Pattern[str]) -> None:
    found = [
        f"{name_of(path)}:{number}: {line.strip()[:100]}"
        for path in tracked_files()
        if (text := text_of(path)) is not None
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


def test_package_files_are_short() -> None:
    lengths = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    found = {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE}
    assert not found, f"one idea a file, {LONGEST_FILE} lines at most: {found}"


def test_package_files_never_assert() -> None:
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Assert)
    ]
    assert not found, f"assert vanishes under -O: raise a surgery.errors class: {found}"


def test_package_files_have_a_docstring() -> None:
    found = [
        name_of(path)
        for path in SOURCES
        if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert not found, f"say what they hold: {found}"


@pytest.mark.parametrize("path", sorted((ROOT / "surgery" / "runtime").glob("*.py")), ids=name_of)
def test_the_runtime_imports_only_what_a_checkpoint_may_rely_on(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    foreign = {
        name
        for name in imported_names(tree)
        if name.partition(".")[0] not in RUNTIME_MAY_IMPORT
        and not name.startswith("surgery.runtime")
    }
    assert not foreign, f"cannot travel inside a checkpoint: {sorted(foreign)}"


def test_importing_the_package_prints_nothing_and_sets_up_no_logging() -> None:
    program = (
        "import logging; before = (list(logging.root.handlers), logging.root.level)\n"
        "import surgery, surgery_cli\n"
        "if before != (list(logging.root.handlers), logging.root.level): print('logging changed')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_readme_opens_with_the_two_commands_and_nothing_else() -> None:
    first = next(blocks(ROOT / "README.md"))
    lines = first.text.splitlines()
    assert len(lines) == 2, lines
    install, test = lines
    assert install.startswith("python3 -m venv .venv && "), install
    assert "[dev]" in install, install
    assert install.endswith("surgery absorb-decompose whisper-micro"), install
    assert test.startswith(".venv/bin/pytest"), test
    assert not any(line.startswith(("$", "#", ">", "%")) for line in lines), "no prompt signs"


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_shape_annotations_are_checked_while_tests_run() -> None:
    import jaxtyping
    import torch

    from surgery.linalg import product_svd

    with pytest.raises(jaxtyping.TypeCheckError):
        product_svd(torch.zeros(2, 3, 4), torch.zeros(2, 5, 4))
