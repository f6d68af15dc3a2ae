"""Fenced code blocks of the documentation: finding them, and running one page's in order.

`python` and `console` blocks run unless their fence says why not:

    ```console skip="downloads 3 GB"
    ```console needs="shared"

`needs="shared"` runs where the real checkpoints are, with their folder in $SURGERY_SHARED.
In a `console` block a line that starts with "$ " is a command (continued by a final
backslash); the lines below it must occur in its output, in that order, with "..." matching
anything. A page's blocks share one directory and one python namespace.

Plain `surgery` commands run in this process, which has the large libraries imported already;
what needs a shell gets one.
"""

from __future__ import annotations

import os
import re
import shlex
import string
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from surgery_cli.main import app

EXECUTED = ("python", "console")
FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<lang>[\w+-]*)(?P<info>[^`]*)$")
OPTION = re.compile(r'(\w+)="([^"]*)"')
SHELL = re.compile(r"[|&;<>()`*?\[\]{}~#!\"']|\$[^A-Za-z_]")
SECONDS_A_COMMAND = 300


@dataclass(frozen=True)
class Block:
    """One fenced block: where it is, what it says, what its fence says about running it."""

    page: Path
    line: int
    language: str
    options: dict[str, str]
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def executed(self) -> bool:
        return self.language in EXECUTED and "skip" not in self.options


@dataclass(frozen=True)
class Command:
    """One command of a console block, and the output lines shown below it."""

    line: str
    shown: tuple[str, ...]


class BlockError(Exception):
    """A block did not do what the page says."""


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page in order."""
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        opening = FENCE.match(line)
        if opening is None:
            continue
        indent, closing = len(opening["indent"]), opening["indent"] + opening["ticks"]
        body = []
        for _, inner in lines:
            if inner.rstrip() == closing:
                break
            body.append(inner[indent:])
        options = dict(OPTION.findall(opening["info"]))
        yield Block(page, number, opening["lang"], options, "\n".join(body) + "\n")


def commands(text: str) -> list[Command]:
    """Split a console block into its commands."""
    found: list[Command] = []
    line, shown, continued = "", [], False
    for raw in text.splitlines():
        if continued:
            line, continued = f"{line}\n{raw}", raw.endswith("\\")
        elif raw.startswith("$ "):
            if line:
                found.append(Command(line, tuple(shown)))
            line, shown, continued = raw[2:], [], raw.endswith("\\")
        elif raw.strip():
            shown.append(raw.strip())
    if line:
        found.append(Command(line, tuple(shown)))
    return found


def environment(shared: Path | None) -> dict[str, str]:
    """Return the environment of a documented command: this installation's commands first."""
    here = str(Path(sys.executable).parent)
    variables = {
        **os.environ,
        "PATH": os.pathsep.join([here, os.environ.get("PATH", "")]),
        "COLUMNS": "120",
        "NO_COLOR": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if shared is not None:
        variables["SURGERY_SHARED"] = str(shared)
    return variables


def run_console(block: Block, folder: Path, shared: Path | None) -> None:
    """Run every command of a block; raise where one fails or prints something else.

    The current folder must be `folder`.
    """
    variables = environment(shared)
    for command in commands(block.text):
        words = plain_words(command.line, variables)
        if words is None:
            code, output = run_in_shell(command.line, folder, variables)
        else:
            code, output = run_here(words, variables)
        where = f"{block.place}: $ {command.line}"
        if code != 0:
            raise BlockError(f"{where}\nexit {code}\n{output[-2000:]}")
        missing = first_missing(command.shown, output)
        if missing is not None:
            raise BlockError(f"{where}\ndoes not show: {missing}\nbut:\n{output[-2000:]}")


def plain_words(line: str, variables: Mapping[str, str]) -> list[str] | None:
    """Return the arguments of a `surgery` command that needs no shell, else `None`."""
    if not line.startswith("surgery ") or SHELL.search(line):
        return None
    words = shlex.split(line.replace("\\\n", ""))[1:]
    return [string.Template(word).substitute(variables) for word in words]


def run_here(words: list[str], variables: Mapping[str, str]) -> tuple[int, str]:
    """Run `surgery` in this process; return its exit code and what it printed, errors included."""
    done = CliRunner(env=variables).invoke(app, words, catch_exceptions=False)
    return done.exit_code, done.output


def run_in_shell(line: str, folder: Path, variables: Mapping[str, str]) -> tuple[int, str]:
    """Run a command in bash; return its exit code and what it printed, errors included."""
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS_A_COMMAND,
        check=False,
    )
    return done.returncode, done.stdout


def first_missing(shown: tuple[str, ...], output: str) -> str | None:
    """Return the first shown line that the output lacks below the one before it."""
    position = 0
    flat = re.sub(r"[ \t]+", " ", output)
    for line in shown:
        parts = [re.escape(part) for part in re.sub(r"[ \t]+", " ", line).split("...")]
        match = re.compile(r"[^\n]*".join(parts)).search(flat, position)
        if match is None:
            return line
        position = match.end()
    return None


def run_python(block: Block, namespace: dict[str, object]) -> None:
    """Run a python block in the page's namespace, with the page's line numbers."""
    source = "\n" * block.line + block.text
    exec(compile(source, str(block.page), "exec"), namespace)
