"""Every code block of README and the documentation does what its page says."""

from __future__ import annotations

import shlex
import sys
import traceback
from pathlib import Path

import pytest
from transformers import dynamic_module_utils

from tests.conftest import ROOT, shared_directory
from tests.docs.blocks import (
    EXECUTED,
    Block,
    BlockError,
    blocks,
    commands,
    environment,
    first_missing,
    plain_words,
    run_console,
    run_here,
    run_in_shell,
    run_python,
)

LONG = (
    "calibration.md",
    "command-line.md",
    "compress.md",
    "python-api.md",
    "reparam.md",
    "run-it.md",
    "tune.md",
)
"""Pages that run for long; what their commands do is tested command by command, too."""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _executed(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.executed]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page.name in LONG else [])
        for page in PAGES
        if _executed(page)
    ],
    ids=_name,
)
def test_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if page.name not in ("README.md", "first-run.md"):
        request.getfixturevalue("no_pictures")
    shared = shared_directory()
    monkeypatch.chdir(tmp_path)
    if shared is not None:
        monkeypatch.setenv("SURGERY_SHARED", str(shared))
    # Code that travels in a checkpoint is copied to a cache of the user's, and put in the path.
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    namespace: dict[str, object] = {"__name__": "__main__"}
    failures, ran, lacking = [], 0, []
    for block in _executed(page):
        if block.options.get("needs") == "shared" and shared is None:
            lacking.append(block.place)
            continue
        ran += 1
        try:
            if block.language == "python":
                run_python(block, namespace)
            else:
                run_console(block, tmp_path, shared)
        except BlockError as failure:
            failures.append(str(failure))
        except Exception:
            failures.append(f"{block.place}\n{traceback.format_exc(limit=-3)}")
    if failures:
        pytest.fail("\n\n".join(failures), pytrace=False)
    if not ran:
        pytest.skip("needs the real checkpoints: " + ", ".join(lacking))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_a_block_that_does_not_run_says_why(page: Path) -> None:
    for block in blocks(page):
        unknown = set(block.options) - {"skip", "needs", "title"}
        assert not unknown, f"{block.place}: unknown fence options {sorted(unknown)}"
        assert block.options.get("needs", "shared") == "shared", block.place
        if "skip" in block.options:
            assert len(block.options["skip"].split()) >= 2, f"{block.place}: say why"


def test_a_console_block_is_split_into_commands_and_what_they_show() -> None:
    first, second = commands("$ one \\\n    --two\nshown\n\n$ three\n")
    assert (first.line, first.shown) == ("one \\\n    --two", ("shown",))
    assert (second.line, second.shown) == ("three", ())


def test_only_plain_commands_run_in_this_process() -> None:
    variables = {"SURGERY_SHARED": "/a b"}
    line = "surgery inspect \\\n    $SURGERY_SHARED/model --remove 25%"
    assert plain_words(line, variables) == ["inspect", "/a b/model", "--remove", "25%"]
    for other in ("surgery inspect x | head", "! surgery inspect x", "surgery x > y", "ls"):
        assert plain_words(other, variables) is None


def test_the_installed_command_is_the_one_run_in_this_process(tmp_path: Path) -> None:
    variables = environment(None)
    for words, code in ((["--version"], 0), (["--help"], 0), (["merge"], 2)):
        spawned = run_in_shell(shlex.join(["surgery", *words]), tmp_path, variables)
        assert spawned == run_here(words, variables)
        assert spawned[0] == code


def test_shown_lines_must_occur_in_order() -> None:
    output = "kept   12 of 24\nerror 1e-12\n"
    assert first_missing(("kept 12 of ...", "error ..."), output) is None
    assert first_missing(("error ...", "kept ..."), output) == "kept ..."


def test_a_fence_carries_its_options(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text('- item\n\n    ```python skip="an outline only"\n    x = 1\n    ```\n')
    (block,) = blocks(page)
    assert (block.language, block.text, block.executed) == ("python", "x = 1\n", False)
    assert block.language in EXECUTED
