"""Feed every command spoilt checkpoints: is there an error of ours, or the right result?

    python -m benchmarks.fuzz [--seed S] [--cases N] [--only N [N ...]] [--jobs J]
        [--subjects NAME [NAME ...]] [--lines FILE] [--tables FILE]

Runs from the root of the repository. Every case spoils one file of a tiny checkpoint in one way,
and runs one command on it (``tests/fuzz``), in a process of its own: at most 10 s of computing,
and 2 GiB more than it began with. A case is decided by its seed and number alone; ``--only`` runs
some again, says everything about them, and keeps their folders. Exit code 1 where anything was a
fault: a traceback, a hang, a success that is not what transformers or PEFT compute of the spoilt
file, a changed input, something half written, or an error without a word of what is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

MOST_MEMORY = 2 << 30  # bytes a command may take beyond what its process begins with
PATIENCE = 300.0  # seconds until a process that does not even hear its alarm is killed


@dataclass(frozen=True)
class Line:
    """What is kept of a case."""

    number: int
    case: str
    subject: str
    command: str
    file: str
    way: str
    kind: str
    why: str
    named: bool
    seconds: float


def prepare() -> None:
    """Import everything once, offline and in one thread, so that forks are quick and sound."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg", "CUDA_VISIBLE_DEVICES": ""}
    import torch

    torch.set_num_threads(1)
    import transformers

    import surgery.report.html

    transformers.utils.logging.disable_progress_bar()
    # Pictures and a safe disk take most of a tiny run's time.
    surgery.report.html.to_html = lambda *_: "<html></html>"
    os.fsync = lambda _: None


@dataclass(frozen=True)
class Plan:
    """Where cases run, and what decides them beside their number."""

    folder: Path
    seed: int
    names: tuple[str, ...]


def one(plan: Plan, number: int, *, keep: bool = False) -> Line:
    """Run and judge one case."""
    from tests.fuzz.cases import Corpus, Place, draw
    from tests.fuzz.oracle import judge

    corpus = Corpus(plan.folder / "corpus")
    case = draw(corpus, plan.seed, number, plan.names)
    place = Place(corpus, case, plan.folder / "cases" / str(number))
    try:
        outcome = place.run()
        verdict = judge(place, outcome)
    finally:
        if not keep:
            shutil.rmtree(place.whole, ignore_errors=True)
    if keep:
        print(f"{case}\n$ surgery {' '.join(case.words)}   (in {place.folder})")
        print(outcome.output[-6000:], outcome.trace[-6000:], sep="\n")
    return Line(
        number,
        str(case),
        case.name,
        case.command,
        Path(case.file).name,
        case.change.kind,
        verdict.kind,
        verdict.why,
        verdict.named,
        outcome.seconds,
    )


def forked(plan: Plan, number: int) -> int:
    """Run one case in a process of its own, which leaves its line in a file."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MOST_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        line = one(plan, number)
        partial = plan.folder / "lines" / f"{number}.partial"
        partial.write_text(json.dumps(asdict(line)))
        partial.rename(partial.with_suffix(".json"))
    except BaseException as error:  # noqa: BLE001  # the parent hears of it
        with contextlib.suppress(OSError):
            import traceback

            text = "".join(traceback.format_exception(error))
            (plan.folder / "lines" / f"{number}.error").write_text(text[-3000:])
    os._exit(0)


def collect(folder: Path, number: int, status: int) -> Line:
    """Return the line of a process that has ended, however it ended."""
    done, failed = (folder / "lines" / f"{number}{end}" for end in (".json", ".error"))
    if done.exists():
        return Line(**json.loads(done.read_text()))
    why = failed.read_text() if failed.exists() else f"the process ended with status {status}"
    return Line(number, f"case {number}", "?", "?", "?", "?", "fault", f"harness: {why}", False, 0)


def run_all(plan: Plan, numbers: Iterable[int], jobs: int) -> Iterable[Line]:
    """Run cases side by side, each in its process."""
    waiting, running = list(numbers)[::-1], {}
    while waiting or running:
        while waiting and len(running) < jobs:
            number = waiting.pop()
            running[forked(plan, number)] = number, time.monotonic()
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended in running:
            yield collect(plan.folder, running.pop(ended)[0], status)
            continue
        for child, (number, since) in running.items():
            if time.monotonic() - since > PATIENCE:
                (plan.folder / "lines" / f"{number}.error").write_text("killed: deaf to its alarm")
                os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


def table(lines: list[Line], by: str) -> str:
    """Return a Markdown table of outcomes by command or by way."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for line in lines:
        key = getattr(line, by)
        counts[key]["cases"] += 1
        counts[key][line.kind] += 1
        counts[key]["named"] += line.kind == "refused" and line.named
    heads = ("cases", "refused", "named", "right", "fault")
    rows = [f"| {by} | {' | '.join(heads)} |", "|---|" + "--:|" * len(heads)]
    total: Counter[str] = sum(counts.values(), Counter())
    for key in (*sorted(counts), "all"):
        found = total if key == "all" else counts[key]
        rows.append(f"| {key} | " + " | ".join(f"{found[head]:,}" for head in heads) + " |")
    return "\n".join(rows)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, nargs="+", help="run these, and say everything")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--subjects", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--tables", type=Path, metavar="FILE", help="only tabulate such lines")
    parser.add_argument("--lines", type=Path, help="write every case's line here, as JSON lines")
    options = parser.parse_args()
    if options.tables:
        lines = [Line(**json.loads(text)) for text in options.tables.read_text().splitlines()]
        print(table(lines, "command"), "\n", table(lines, "way"), sep="\n")
        return 0
    prepare()
    from tests.fuzz.cases import Corpus
    from tests.fuzz.subjects import SUBJECTS

    folder = Path(tempfile.mkdtemp(prefix="surgery-fuzz-"))
    print(f"seed {options.seed}, {options.cases} cases from {options.first}, in {folder}")
    for name in ("corpus", "cases", "lines"):
        (folder / name).mkdir()
    plan = Plan(folder, options.seed, tuple(options.subjects or SUBJECTS))
    for name in plan.names:
        Corpus(folder / "corpus").subject(name)
    if options.only:
        lines = [one(plan, number, keep=True) for number in options.only]
        for line in lines:
            print(f"{line.number}: {line.kind}: {line.why}\n")
        return int(any(line.kind == "fault" for line in lines))
    start, lines = time.monotonic(), []
    numbers = range(options.first, options.first + options.cases)
    kept = contextlib.nullcontext() if options.lines is None else options.lines.open("w")
    with kept as file:
        for line in run_all(plan, numbers, options.jobs):
            lines.append(line)
            if file is not None:
                print(json.dumps(asdict(line)), file=file, flush=True)
            if line.kind == "fault":
                print(f"fault {line.number}: {line.case}\n    {line.why}", flush=True)
            if len(lines) % 500 == 0:
                print(f"… {len(lines)} in {time.monotonic() - start:.0f} s", flush=True)
    print(f"\n{len(lines)} cases of seed {options.seed} in {time.monotonic() - start:.0f} s\n")
    print(table(lines, "command"), "\n", table(lines, "way"), sep="\n")
    shutil.rmtree(folder)
    return int(any(line.kind == "fault" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
