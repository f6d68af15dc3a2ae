"""One case: a subject, a command, one spoilt file, and what came of it."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor
from typer.testing import CliRunner

from surgery.errors import SurgeryError, SurgeryWarning
from surgery.stored.loading import load
from surgery_cli.main import app
from tests.engine.support import contents, run
from tests.fuzz.json_mutations import Mutated, mutate_json
from tests.fuzz.subjects import SUBJECTS, Subject
from tests.fuzz.tensor_mutations import mutate_tensors

LONGEST = 10.0  # seconds a command may compute
WAITED = 60.0  # seconds it may take on a machine that others keep busy
LONGEST_MESSAGE = 4_000  # characters; a message that repeats its input whole helps nobody
STAGED = re.compile(r"\.out\.surgery-")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]")


class HangError(BaseException):
    """A command computed longer than :data:`LONGEST`, or waited longer than :data:`WAITED`."""


class Corpus:
    """The subjects, built when they are first needed.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def subject(self, name: str) -> Path:
        place = self.folder / name.replace(" ", "-").replace(",", "")
        if not place.exists():
            partial = place.with_suffix(".partial")
            partial.mkdir(parents=True)
            SUBJECTS[name].build(partial)
            partial.rename(place)
        return place

    def copy(self, name: str, to: Path) -> Path:
        """Copy a subject; times stay, because resuming a run compares them."""
        shutil.copytree(self.subject(name), to)
        (to / "outside").mkdir()
        (to / "outside" / "other").write_bytes(b"not to be touched")
        (to / "tmp").mkdir()
        return to


@dataclass(frozen=True)
class Case:
    """What is done, before it is done.

    Attributes:
        number: Which of the seed's cases.
        name: The subject's name.
        command: The command's name.
        file: The spoilt file, from the subject's folder.
        change: How it was spoilt.
        forced: There is a result already, which ``--force`` may replace.
    """

    number: int
    name: str
    command: str
    file: str
    change: Mutated
    forced: bool

    @property
    def subject(self) -> Subject:
        return SUBJECTS[self.name]

    @property
    def words(self) -> list[str]:
        words = self.subject.commands[self.command].split()
        return [*words, "--force"] if self.forced else words

    def __str__(self) -> str:
        item = f", {self.change.item[:60]!r}" if self.change.item else ""
        return f"{self.name}: {self.command}: {self.file}: {self.change.kind}{item}"


@dataclass(frozen=True)
class Outcome:
    """What came of a command.

    Attributes:
        code: Exit code; ``None`` where something went through that is no error of ours.
        output: Everything it said.
        printed: What it said on standard output.
        trace: The traceback of what went through.
        logits: What the model computes, of ``load``; ``None`` where it does not run.
        state: The model's tensors, of ``load``.
        seconds: How long it took.
    """

    code: int | None
    output: str
    printed: str = ""
    trace: str = ""
    logits: Tensor | None = None
    state: dict[str, Tensor] | None = None
    seconds: float = 0.0


def draw(corpus: Corpus, seed: int, number: int, names: Sequence[str] = tuple(SUBJECTS)) -> Case:
    """Draw one case; the same every time."""
    rng = random.Random(f"{seed}/{number}")
    name = rng.choice(list(names))
    subject = SUBJECTS[name]
    command = rng.choice(list(subject.commands))
    chosen = rng.choices(list(subject.files), list(subject.files.values()))[0]
    folder = corpus.subject(name)
    matching = sorted(path for path in folder.glob(chosen) if path.is_file())
    path = rng.choice(matching)
    data = path.read_bytes()
    if _holds_tensors(data):
        change = mutate_tensors(rng, data)
    elif path.name == "journal.jsonl":
        change = _mutate_journal(rng, data)
    else:
        change = mutate_json(rng, data, subject.focus)
    forced = "-o out" in subject.commands[command] and rng.random() < 0.25
    forced = forced and subject.kind not in ("interrupted", "finished")
    return Case(number, name, command, str(path.relative_to(folder)), change, forced)


def _holds_tensors(data: bytes) -> bool:
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data)


def _mutate_journal(rng: random.Random, data: bytes) -> Mutated:
    """Spoil one line. Its checksum is right again where the line is none that a journal holds.

    Facts that are false and have the right checksum are forged, which no checksum finds.
    """
    lines = data.split(b"\n")
    number = rng.randrange(len(lines) - 1)
    found = mutate_json(rng, lines[number].partition(b" ")[2])
    text = found.data.replace(b"\n", b" ")
    formless = "." not in found.item and number > 0
    check = b"%08x" % zlib.crc32(text) if formless else lines[number][:8]
    lines[number] = check + b" " + text
    return replace(found, data=b"\n".join(lines), harmless=False)


class Place:
    """The folder of one case, with the spoilt file in it.

    Args:
        corpus: Where the subjects are.
        case: The case.
        folder: A folder that does not exist yet.

    Attributes:
        folder: Where the command runs; called ``here``, as is every folder beside it in
            ``whole``, because reports name it.
    """

    def __init__(self, corpus: Corpus, case: Case, folder: Path) -> None:
        self.corpus, self.case = corpus, case
        self.whole = folder
        self.folder = folder = corpus.copy(case.name, folder / "now" / "here")
        (folder / case.file).write_bytes(case.change.data)
        if case.forced:
            (folder / "out").mkdir()
            (folder / "out" / "precious").write_bytes(b"old")
        self.before = contents(folder)

    def run(self) -> Outcome:
        return run_command(self.case, self.folder)

    @cached_property
    def baseline(self) -> tuple[Outcome, Path]:
        """What comes of the same command on the subject as it was, and where."""
        folder = self.corpus.copy(self.case.name, self.whole / "was" / "here")
        return run_command(replace(self.case, forced=False), folder), folder

    def strays(self, *, failed: bool) -> list[str]:
        """Return what the command wrote, changed or removed where it had no business to."""
        after = contents(self.folder)
        mine = "in/" if self.case.command == "refresh" and not failed else "out/"
        return sorted(
            name
            for name in self.before.keys() | after.keys()
            if self.before.get(name) != after.get(name)
            and not STAGED.match(name)
            and (failed or not name.startswith(mine))
        )


def run_command(case: Case, folder: Path) -> Outcome:
    """Run a case's command in a folder, until it is done or takes too long."""
    start = time.monotonic()
    with contextlib.chdir(folder), _temporary(folder / "tmp"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", SurgeryWarning)
        try:
            with _alarm():
                found = _load(case) if case.command == "load" else _invoke(case.words)
        except HangError:
            return Outcome(None, "", trace=f"HangError\n{traceback.format_exc()}", seconds=LONGEST)
    return replace(found, seconds=time.monotonic() - start)


def _invoke(words: list[str]) -> Outcome:
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200", "TERM": "dumb"})
    if isinstance(result.exception, HangError):
        raise result.exception
    if isinstance(result.exception, SystemExit | None):
        return Outcome(result.exit_code, result.output, result.stdout)
    trace = "".join(traceback.format_exception(result.exception))
    return Outcome(None, result.output, result.stdout, trace)


def _load(case: Case) -> Outcome:
    path = "adapter" if case.subject.kind == "adapter" else "in"
    with warnings.catch_warnings(record=True) as told:
        try:
            model: Any = load(path)
        except SurgeryError as error:
            return Outcome(1, f"error: {error.render()}")
        except Exception:
            return Outcome(None, "", trace=traceback.format_exc())
    said = "\n".join(str(one.message) for one in told if one.category is SurgeryWarning)
    try:
        logits = run(model)
    except Exception:  # the model is judged by whether transformers' own runs
        logits = None
    return Outcome(0, said, logits=logits, state=dict(model.state_dict()))


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    computed, waited = time.process_time(), time.monotonic()

    def ring(number: int, frame: FrameType | None) -> None:
        starved = time.process_time() - computed < LONGEST
        if not starved or time.monotonic() - waited > WAITED:
            raise HangError

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LONGEST, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[None]:
    """Have temporary files made where strays are seen."""
    old, named = tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir, os.environ["TMPDIR"] = str(folder), str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = old
        if named is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = named
